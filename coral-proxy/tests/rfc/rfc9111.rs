//! HTTP caching.

mod section_3;
mod section_3_3;
mod section_3_4;
mod section_3_5;
mod section_4_1;
mod section_4_2;
mod section_4_3;
mod section_4_4;
mod section_5_1;
mod section_5_2;
mod section_5_3;
mod section_7_3;
