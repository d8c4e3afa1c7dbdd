//! Levels: how near the nodes of one cluster are to each other [C04 §4.3].

use std::fmt;

/// The most levels a network may have, the global one included.
pub const MAX_LEVELS: usize = 4;

/// One level of the hierarchy: 0 is global, higher is nearer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Level(u8);

impl Level {
    /// Level 0, the cluster of all nodes.
    pub const GLOBAL: Self = Self(0);

    /// The level with this number, if a network can have it.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < MAX_LEVELS { Some(Self(number)) } else { None }
    }

    /// Its number: 0 for the global level.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its place in an array with an entry for each level.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// `L0`, `L1`, …
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of levels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Levels(u8);

impl Levels {
    /// No level.
    pub const NONE: Self = Self(0);
    /// Every level that a network can have; those it has not are passed over.
    pub const ALL: Self = Self((1 << MAX_LEVELS) - 1);

    /// The first `count` levels, from the global one up.
    pub const fn first(count: usize) -> Self {
        Self(if count >= MAX_LEVELS { Self::ALL.0 } else { (1 << count) - 1 })
    }

    /// Only this level.
    pub const fn only(level: Level) -> Self {
        Self(1 << level.0)
    }

    /// Whether `level` is in the set.
    pub const fn contains(self, level: Level) -> bool {
        self.0 & (1 << level.0) != 0
    }

    /// The set with `level` in it.
    pub const fn with(self, level: Level) -> Self {
        Self(self.0 | 1 << level.0)
    }

    /// The levels that are in both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The nearest level in the set: where a get or put begins.
    pub fn nearest(self) -> Option<Level> {
        self.nearest_first().next()
    }

    /// The nearest level in the set that is farther than `level`: where a get or put goes on.
    pub fn next_farther(self, level: Level) -> Option<Level> {
        self.nearest_first().find(|next| *next < level)
    }

    /// The levels of the set from the nearest to the global one: the order in which a get searches them.
    pub fn nearest_first(self) -> impl Iterator<Item = Level> {
        (0..MAX_LEVELS as u8).rev().map(Level).filter(move |level| self.contains(*level))
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nearest_first()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_goes_from_the_nearest_level_outwards() {
        let levels = Levels::first(3);
        let order: Vec<u8> = levels.nearest_first().map(Level::number).collect();
        assert_eq!(order, [2, 1, 0]);
        assert_eq!(levels.nearest(), Level::new(2));
        assert_eq!(levels.next_farther(Level(2)), Level::new(1));
        assert_eq!(levels.next_farther(Level::GLOBAL), None);
    }

    #[test]
    fn there_is_no_fifth_level() {
        assert_eq!(Level::new(4), None);
        assert_eq!(Levels::first(9), Levels::ALL);
    }
}
