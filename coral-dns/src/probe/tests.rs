use std::num::NonZeroUsize;
use std::sync::Mutex;

use coral_dsht::{Level, Peer};
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::appraisal::Appraiser;

const RTT: Option<Duration> = Some(Duration::from_millis(7));

fn client(address: &str) -> Client {
    Client::new(address.parse().unwrap(), None)
}

/// Answers once for each permit, and writes down whom it was asked for.
struct Script {
    asked: Mutex<Vec<IpAddr>>,
    permits: Semaphore,
}

impl Measure for Arc<Script> {
    async fn rtt(&self, address: IpAddr) -> Option<Duration> {
        self.asked.lock().unwrap().push(address);
        self.permits.acquire().await.unwrap().forget();
        RTT
    }
}

fn candidates(config: &ProbeConfig) -> Candidates {
    let me = Peer::new("192.0.2.9:4160".parse().unwrap(), crate::PROXY);
    Candidates::new(me, config.ttl, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_query_never_waits_and_the_next_one_knows() {
    let script = Arc::new(Script { asked: Mutex::default(), permits: Semaphore::new(0) });
    let config = ProbeConfig { at_once: NonZeroUsize::new(1).unwrap(), ..ProbeConfig::default() };
    let metrics = Metrics::register(&mut Registry::default());
    let clients = Arc::new(Clients::new(config.ttl, config.capacity.get(), Instant::now()));
    let (prober, task) = new(&config, clients, Arc::clone(&script), None, candidates(&config), metrics.clone());
    let [near, far, third] = ["192.0.2.1", "198.51.100.1", "203.0.113.1"].map(client);
    let task = tokio::spawn(task.run());

    // The first is under way, the second waits in line, for all who ask; the third finds no room.
    for (client, asked, comes) in [(&near, 1, true), (&far, 1, true), (&far, 1, true), (&third, 1, false)] {
        let (known, is_worth_waiting) = prober.look_up(Instant::now(), client);
        assert_eq!((known.rtt, is_worth_waiting), (None, comes));
        until(|| script.asked.lock().unwrap().len() == asked).await;
    }
    let skipped = OutcomeLabels { outcome: "skipped" };
    assert_eq!(metrics.probes.get_or_create(&skipped).get(), 1);

    script.permits.add_permits(2);
    let knows = |client| prober.look_up(Instant::now(), client).0.rtt == RTT;
    until(|| knows(&near) && knows(&far)).await;
    assert_eq!(*script.asked.lock().unwrap(), [near.address, far.address]);
    drop(prober);
    task.await.unwrap();
}

/// A task that looks for nodes near one client, and finds nobody; it does so next when the interval ends.
struct Looking {
    config: ProbeConfig,
    metrics: Metrics,
    clients: Arc<Clients>,
    prober: Prober,
    client: Client,
    start: Instant,
    task: JoinHandle<()>,
}

impl Looking {
    fn start() -> Self {
        let config = ProbeConfig::default();
        let metrics = Metrics::register(&mut Registry::default());
        let clients = Arc::new(Clients::new(config.ttl, config.capacity.get(), Instant::now()));
        let searcher = Searcher {
            me: "192.0.2.9".parse().unwrap(),
            dsht: coral_dsht::memory::fixed(Peer::new("192.0.2.9:4160".parse().unwrap(), crate::PROXY), Vec::new()),
            appraiser: Arc::new(Appraiser::new("nyud.net".parse().unwrap(), 53, Duration::from_secs(1))),
            candidates: candidates(&config),
            nameservers: 3,
            promise: Duration::from_secs(60),
        };
        let (prober, mut task) = new(
            &config,
            Arc::clone(&clients),
            None::<Arc<Script>>,
            Some(searcher),
            candidates(&config),
            metrics.clone(),
        );
        let (start, client) = (Instant::now(), client("198.51.100.1"));
        clients.begin(start, client.key(), true);
        clients.end(start, client.key(), Some(Duration::from_millis(90)));
        let due = start + config.search_interval;
        task.sought.insert(client.key(), Sought { client, routers: Some(Vec::new()), searches: 2, due: Some(due) });
        task.due.push(Reverse((due, client.key())));
        Self { config, metrics, clients, prober, client, start, task: tokio::spawn(task.run()) }
    }

    fn searches(&self) -> u64 {
        self.metrics.searches.get_or_create(&OutcomeLabels { outcome: "nobody" }).get()
    }

    async fn end(self) {
        drop(self.prober);
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn whether_nodes_near_a_client_live_is_found_out_before_it_is_time_if_somebody_wants_to_know() {
    let looking = Looking::start();
    let interval = looking.config.search_interval;
    tokio::time::advance(interval / 3).await;
    looking.prober.check(&looking.client);
    until(|| looking.searches() == 1).await;
    assert!(looking.start.elapsed() < interval);
    // The next one is due an interval after that, and not when it would have been.
    sleep_until(looking.start + interval * 3 / 2).await;
    assert_eq!(looking.searches(), 2);
    looking.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_somebody_was_before_nobody_is_believed_at_the_second_time_alone() {
    let looking = Looking::start();
    let (start, interval) = (looking.start, looking.config.search_interval);
    let near = Near { level: Level::new(2).unwrap(), nameservers: Vec::new(), proxies: Vec::new() };
    looking.clients.set_near(start, looking.client.key(), Some(near), 2 * interval);
    sleep_until(start + interval + SECOND_LOOK / 2).await;
    assert_eq!(looking.searches(), 1);
    sleep_until(start + interval + SECOND_LOOK * 2).await;
    assert_eq!(looking.searches(), 2);
    sleep_until(start + interval * 3 / 2).await;
    assert_eq!(looking.searches(), 2, "it goes on as it does for all others");
    looking.end().await;
}

/// Lets the other tasks run until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
