//! The work that each network is given, and what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval_at, sleep, timeout};

use crate::meter::{Random, cpu_seconds, resident_mb};
use crate::network::{Holders, Key, Network};

/// One thing to do, as the parent process asks for it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One operation at a time in the whole network: puts for so many seconds, then gets.
    Idle(f64),
    /// One operation at a time from each node: puts for so many seconds, then gets.
    Busy(f64),
    /// Each node puts the same key once in so many seconds; counted from the tenth second on, or from a quarter of the time.
    Hot {
        /// How long.
        seconds: f64,
        /// Seconds between two puts of a node.
        every: f64,
    },
    /// Three nodes of ten fall silent: two gets and two puts from each of the others at once.
    Silence,
}

/// Named figures: each has one value, or many of which quantiles are wanted.
pub type Figures = BTreeMap<String, Vec<f64>>;

/// A network with what the work needs to know of it.
#[derive(Debug)]
pub struct Bench<N> {
    network: Arc<N>,
    nodes: usize,
    random: Random,
}

impl<N: Network> Bench<N> {
    /// Starts the network and gives it some work, so that its memory is that of one in use.
    pub async fn start(nodes: usize) -> anyhow::Result<(Self, Figures)> {
        let memory = resident_mb();
        let begun = Instant::now();
        let network = Arc::new(N::start(nodes).await?);
        let started = begun.elapsed().as_secs_f64();
        let mut bench = Self { network, nodes, random: Random::new(nodes as u64) };
        let mut figures = Figures::new();
        let keys = bench.each(usize::MAX, WARMING_OPERATIONS, |network, node, mut random| async move {
            let key = random.key();
            network.put(node, key).await.map(|_| key)
        });
        let keys: Arc<Vec<Key>> = Arc::new(keys.await.into_iter().filter_map(|(key, _)| key).collect());
        bench.gets(WARMING_OPERATIONS, &keys).await;
        figures.insert("start_seconds".into(), vec![started]);
        figures.insert("memory_mb".into(), vec![(resident_mb() - memory) / nodes as f64]);
        Ok((bench, figures))
    }

    /// Does `task`.
    pub async fn run(&mut self, task: Task) -> Figures {
        match task {
            Task::Idle(seconds) => self.idle(seconds).await,
            Task::Busy(seconds) => self.busy(seconds).await,
            Task::Hot { seconds, every } => self.hot(seconds, every).await,
            Task::Silence => self.silence().await,
        }
    }

    async fn idle(&mut self, seconds: f64) -> Figures {
        let mut figures = Figures::new();
        let (mut keys, mut put_ms, mut get_ms, mut missed) = (Vec::new(), Vec::new(), Vec::new(), [0u32; 2]);
        let before = self.network.received().await;
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds {
            let (node, key) = (self.random.below(self.nodes), self.random.key());
            let since = Instant::now();
            match self.network.put(node, key).await {
                Some(_) => keys.push(key),
                None => missed[0] += 1,
            }
            put_ms.push(ms(since.elapsed()));
        }
        sleep(SETTLING).await;
        let between = self.network.received().await;
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds && !keys.is_empty() {
            let (node, key) = (self.random.below(self.nodes), keys[self.random.below(keys.len())]);
            let since = Instant::now();
            if !self.network.get(node, key).await {
                missed[1] += 1;
            }
            get_ms.push(ms(since.elapsed()));
        }
        sleep(SETTLING).await;
        let after = self.network.received().await;
        let put_requests = between.since(&before).total() as f64 / put_ms.len().max(1) as f64;
        let get_requests = after.since(&between).total() as f64 / get_ms.len().max(1) as f64;
        figures.insert("put_requests".into(), vec![put_requests]);
        figures.insert("get_requests".into(), vec![get_requests]);
        figures.insert("idle_put_ms".into(), put_ms);
        figures.insert("idle_get_ms".into(), get_ms);
        figures.insert("failed_puts".into(), vec![f64::from(missed[0])]);
        figures.insert("failed_gets".into(), vec![f64::from(missed[1])]);
        figures
    }

    async fn busy(&mut self, seconds: f64) -> Figures {
        let mut figures = Figures::new();
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let (cpu, received, begun) = (cpu_seconds(), self.network.received().await, Instant::now());
        let puts = self.until(until, |network, node, mut random| async move {
            let key = random.key();
            network.put(node, key).await.map(|_| key)
        });
        let puts = puts.await;
        let puts_a_second = puts.len() as f64 / begun.elapsed().as_secs_f64();
        let keys: Arc<Vec<Key>> = Arc::new(puts.iter().filter_map(|(key, _)| *key).collect());
        let failed_puts = puts.len() - keys.len();
        let (put_cpu, between) = (cpu_seconds() - cpu, self.network.received().await);

        let (cpu, begun) = (cpu_seconds(), Instant::now());
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let shared = Arc::clone(&keys);
        let gets = self.until(until, move |network, node, mut random| {
            let key = shared.get(random.below(shared.len().max(1))).copied();
            async move { network.get(node, key?).await.then_some(()) }
        });
        let gets = gets.await;
        let gets_a_second = gets.len() as f64 / begun.elapsed().as_secs_f64();
        let failed_gets = gets.iter().filter(|(found, _)| found.is_none()).count();
        let get_cpu = cpu_seconds() - cpu;
        let after = self.network.received().await;

        let all = |later: &crate::network::Received, earlier| {
            let received = later.since(earlier);
            (received.total() + received.of_upkeep) as f64
        };
        let requests = all(&between, &received) + all(&after, &between);
        figures.insert("puts_a_second".into(), vec![puts_a_second]);
        figures.insert("gets_a_second".into(), vec![gets_a_second]);
        figures.insert("cpu_us_a_request".into(), vec![(put_cpu + get_cpu) * 1e6 / requests]);
        figures.insert("cpu_us_a_put".into(), vec![put_cpu * 1e6 / puts.len() as f64]);
        figures.insert("cpu_us_a_get".into(), vec![get_cpu * 1e6 / gets.len() as f64]);
        figures.insert("failed_puts".into(), vec![failed_puts as f64]);
        figures.insert("failed_gets".into(), vec![failed_gets as f64]);
        figures
    }

    async fn hot(&mut self, seconds: f64, every: f64) -> Figures {
        let key = self.random.key();
        let begun = tokio::time::Instant::now();
        let until = begun + Duration::from_secs_f64(seconds);
        let every = Duration::from_secs_f64(every);
        let puts: Vec<_> = (0..self.nodes)
            .map(|node| {
                let network = Arc::clone(&self.network);
                let first = begun + every.mul_f64(node as f64 / self.nodes as f64);
                tokio::spawn(async move {
                    let mut ticks = interval_at(first, every);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    let mut done = 0u32;
                    while ticks.tick().await < until {
                        network.put(node, key).await;
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let skipped = (seconds / 4.0).min(10.0);
        tokio::time::sleep_until(begun + Duration::from_secs_f64(skipped)).await;
        let before = self.network.received().await;
        tokio::time::sleep_until(until).await;
        let received = self.network.received().await.since(&before);
        let mut done = 0;
        for task in puts {
            done += task.await.unwrap_or(0);
        }
        let hottest = received.of_work.iter().max().copied().unwrap_or(0) as f64 / (seconds - skipped);
        let puts = f64::from(done) / seconds;
        let mut figures = Figures::new();
        figures.insert("hot_puts_a_second".into(), vec![puts]);
        figures.insert("hot_requests_a_second".into(), vec![hottest]);
        figures.insert("hot_requests_a_put".into(), vec![hottest / puts]);
        figures
    }

    async fn silence(&mut self) -> Figures {
        let silent = self.nodes * 3 / 10;
        // The last ones: their numbers say nothing about their ids.
        let speaking = self.nodes - silent;
        let puts = self.each(speaking, SILENT_PUTS_BEFORE, |network, node, mut random| async move {
            let key = random.key();
            Some((key, network.put(node, key).await?))
        });
        let stored: Vec<(Key, Holders)> = puts.await.into_iter().filter_map(|(stored, _)| stored).collect();
        let is_alive = |holders: &Holders| match holders {
            Holders::Nodes(nodes) => nodes.iter().any(|node| *node < speaking),
            Holders::Twenty => true,
        };
        let keys: Vec<Key> = stored.iter().filter(|(_, holders)| is_alive(holders)).map(|(key, _)| *key).collect();
        let keys = Arc::new(keys);
        for node in speaking..self.nodes {
            self.network.silence(node).await;
        }
        let shared = Arc::clone(&keys);
        let gets = self.each(speaking, SILENT_OPERATIONS, move |network, node, mut random| {
            let key = shared.get(random.below(shared.len().max(1))).copied();
            async move { network.get(node, key?).await.then_some(()) }
        });
        let gets = gets.await;
        let puts = self.each(speaking, SILENT_OPERATIONS, |network, node, mut random| async move {
            network.put(node, random.key()).await
        });
        let puts = puts.await;
        let failed_gets = gets.iter().filter(|(found, _)| found.is_none()).count() as f64;
        let failed_puts = puts.iter().filter(|(stored, _)| stored.is_none()).count() as f64;
        let mut figures = Figures::new();
        figures.insert("silent_failed_gets".into(), vec![failed_gets]);
        figures.insert("silent_failed_puts".into(), vec![failed_puts]);
        figures.insert(
            "silent_lost_percent".into(),
            vec![100.0 * (stored.len() - keys.len()) as f64 / stored.len().max(1) as f64],
        );
        figures.insert("silent_get_ms".into(), gets.into_iter().map(|(_, ms)| ms).collect());
        figures.insert("silent_put_ms".into(), puts.into_iter().map(|(_, ms)| ms).collect());
        figures
    }

    async fn gets(&mut self, count: usize, keys: &Arc<Vec<Key>>) {
        let keys = Arc::clone(keys);
        let gets = self.each(usize::MAX, count, move |network, node, mut random| {
            let key = keys.get(random.below(keys.len().max(1))).copied();
            async move { network.get(node, key?).await.then_some(()) }
        });
        gets.await;
    }

    /// `count` operations, one after the other, at each of the first nodes: what came of each, and how long it took.
    async fn each<T, F, O>(&mut self, nodes: usize, count: usize, operation: O) -> Vec<(Option<T>, f64)>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
        O: Fn(Arc<N>, usize, Random) -> F + Send + Clone + 'static,
    {
        self.repeat(nodes, move |done| done < count, operation).await
    }

    /// Operations, one after the other, at each node until `until`.
    async fn until<T, F, O>(&mut self, until: Instant, operation: O) -> Vec<(Option<T>, f64)>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
        O: Fn(Arc<N>, usize, Random) -> F + Send + Clone + 'static,
    {
        self.repeat(usize::MAX, move |_| Instant::now() < until, operation).await
    }

    async fn repeat<T, F, O, W>(&mut self, nodes: usize, go_on: W, operation: O) -> Vec<(Option<T>, f64)>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
        O: Fn(Arc<N>, usize, Random) -> F + Send + Clone + 'static,
        W: Fn(usize) -> bool + Send + Copy + 'static,
    {
        let tasks: Vec<_> = (0..self.nodes.min(nodes))
            .map(|node| {
                let (network, operation) = (Arc::clone(&self.network), operation.clone());
                let mut random = Random::new(self.random.next());
                tokio::spawn(async move {
                    let mut results = Vec::new();
                    while go_on(results.len()) {
                        let since = Instant::now();
                        let random = Random::new(random.next());
                        let result = timeout(PATIENCE, operation(Arc::clone(&network), node, random)).await;
                        results.push((result.unwrap_or(None), ms(since.elapsed())));
                    }
                    results
                })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.extend(task.await.unwrap_or_default());
        }
        results
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// Puts, and then gets, of each node before memory is measured.
const WARMING_OPERATIONS: usize = 4;
/// Puts of each node whose values are sought once others are silent.
const SILENT_PUTS_BEFORE: usize = 2;
/// Gets, and then puts, of each node once others are silent.
const SILENT_OPERATIONS: usize = 2;
/// How long requests may still be under way of an operation that has ended.
const SETTLING: Duration = Duration::from_millis(200);
/// An operation that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(25);
