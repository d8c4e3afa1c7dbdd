//! What changes while the router runs: ways, lines, cuts.

use super::Router;
use crate::wan::control::{AccessChange, LinkChange};

/// Why a change is none: in words, for whoever asked. Nothing has changed.
type Refused = String;

impl Router {
    /// The index of the site of this name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn site(&self, name: &str) -> Result<usize, Refused> {
        self.sites.iter().position(|site| site.status.name == name).ok_or_else(|| format!("there is no site {name}"))
    }

    /// Changes the ways between all of `a` and all of `b`, in both directions.
    ///
    /// # Errors
    ///
    /// If there is no such site or region, no pair between them, or the result would be no way.
    pub fn change_link(&mut self, a: &str, b: &str, change: &LinkChange) -> Result<(), Refused> {
        let pairs = self.pairs_between(&self.select(a)?, &self.select(b)?);
        if pairs.is_empty() {
            return Err(format!("{a} and {b} are not two sites"));
        }
        let changed = |at: usize| {
            let mut link = self.pairs[at].link;
            link.delay = change.rtt.map_or(link.delay, |rtt| rtt / 2);
            link.jitter = change.jitter.unwrap_or(link.jitter);
            link.loss = change.loss.unwrap_or(link.loss);
            link.rate = change.rate.map_or(link.rate, |limit| limit.rate());
            link.check().map(|()| (at, link))
        };
        for (at, link) in pairs.into_iter().map(changed).collect::<Result<Vec<_>, _>>()? {
            let pair = &mut self.pairs[at];
            if pair.link.rate != link.rate {
                pair.rate.reset();
            }
            pair.link = link;
        }
        Ok(())
    }

    /// Changes the lines of all sites at `at`.
    ///
    /// # Errors
    ///
    /// If there is no such site or region, or the result would be no line.
    pub fn change_access(&mut self, at: &str, change: &AccessChange) -> Result<(), Refused> {
        let sites = self.select(at)?;
        let changed = |site: usize| {
            let mut access = self.sites[site].access;
            access.up = change.up.map_or(access.up, |limit| limit.rate());
            access.down = change.down.map_or(access.down, |limit| limit.rate());
            access.queue = change.queue.unwrap_or(access.queue);
            access.check().map(|()| (site, access))
        };
        for (site, access) in sites.into_iter().map(changed).collect::<Result<Vec<_>, _>>()? {
            let site = &mut self.sites[site];
            if site.access.up != access.up {
                site.up.reset();
            }
            if site.access.down != access.down {
                site.down.reset();
            }
            site.access = access;
        }
        Ok(())
    }

    /// Lets nothing through between `a` and `b`, or `a` and all others. What is under way arrives.
    ///
    /// # Errors
    ///
    /// If there is no such site or region, or no pair between them.
    pub fn cut(&mut self, a: &str, b: Option<&str>) -> Result<(), Refused> {
        let (inside, others) = self.ends(a, b)?;
        if self.pairs_between(&inside, &others).is_empty() {
            return Err(format!("there is nothing to cut between {a} and {}", b.unwrap_or("all others")));
        }
        if self.find_cut(a, b).is_none() {
            self.cuts.push((a.to_owned(), b.map(str::to_owned)));
        }
        self.mark_cuts()
    }

    /// Undoes a cut.
    ///
    /// # Errors
    ///
    /// If there is no such cut.
    pub fn heal(&mut self, a: &str, b: Option<&str>) -> Result<(), Refused> {
        let at = self.find_cut(a, b).ok_or_else(|| format!("{a} is not cut from {}", b.unwrap_or("all others")))?;
        self.cuts.remove(at);
        self.mark_cuts()
    }

    /// Undoes all cuts.
    pub fn heal_all(&mut self) {
        self.cuts.clear();
        self.mark_cuts().expect("no cut names what is not there");
    }

    fn find_cut(&self, a: &str, b: Option<&str>) -> Option<usize> {
        let same = |(x, y): &(String, Option<String>)| {
            let (x, y) = (x.as_str(), y.as_deref());
            (x, y) == (a, b) || y.is_some_and(|y| (y, Some(x)) == (a, b))
        };
        self.cuts.iter().position(same)
    }

    /// The sites on either side of a cut.
    fn ends(&self, a: &str, b: Option<&str>) -> Result<(Vec<usize>, Vec<usize>), Refused> {
        let inside = self.select(a)?;
        let others = match b {
            Some(b) => self.select(b)?,
            None => (0..self.sites.len()).filter(|site| !inside.contains(site)).collect(),
        };
        Ok((inside, others))
    }

    /// Works out anew which pairs are cut, as cuts may overlap.
    fn mark_cuts(&mut self) -> Result<(), Refused> {
        let (mut cut, mut isolated) = (vec![false; self.pairs.len()], vec![false; self.sites.len()]);
        for (a, b) in &self.cuts {
            let (inside, others) = self.ends(a, b.as_deref())?;
            for at in self.pairs_between(&inside, &others) {
                cut[at] = true;
            }
            if let (None, [site]) = (b, &inside[..]) {
                isolated[*site] |= self.site(a).is_ok();
            }
        }
        for (pair, cut) in self.pairs.iter_mut().zip(cut) {
            pair.cut = cut;
        }
        for (site, isolated) in self.sites.iter_mut().zip(isolated) {
            site.isolated = isolated;
        }
        Ok(())
    }

    /// The sites that a name means: one, a region's, or all.
    fn select(&self, name: &str) -> Result<Vec<usize>, Refused> {
        if name == "*" {
            return Ok((0..self.sites.len()).collect());
        }
        if let Ok(site) = self.site(name) {
            return Ok(vec![site]);
        }
        match self.region_names.iter().position(|region| region == name) {
            Some(region) => Ok((0..self.sites.len()).filter(|site| self.sites[*site].region == region).collect()),
            None => Err(format!("there is no site or region {name}")),
        }
    }

    /// The pairs between two sets of sites, as indices, both directions.
    fn pairs_between(&self, a: &[usize], b: &[usize]) -> Vec<usize> {
        let count = self.sites.len();
        let between = a.iter().flat_map(|x| b.iter().filter(move |y| x != *y).map(move |y| (*x, *y)));
        between.flat_map(|(x, y)| [x * count + y, y * count + x]).collect()
    }
}
