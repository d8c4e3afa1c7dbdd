//! Figures of several rounds as one cell of a table.

/// The median, the least and the most of some values, if there are any.
pub fn spread(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    Some([middle, first, last])
}

/// The same as a text, `1.5 (1.0–2.0)`; a dash if there are none.
pub fn cell(values: Vec<f64>, digits: usize) -> String {
    spread(values).map_or("–".to_owned(), |[median, least, most]| {
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    })
}
