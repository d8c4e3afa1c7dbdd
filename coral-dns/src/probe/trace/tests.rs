//! The logic of a trace, on ways that are made up.

use expect_test::{Expect, expect};

use super::*;

/// A way on which routers 192.0.2.1, .2, … stand before the destination, each a millisecond after the one before it.
struct Way {
    routers: u8,
    silent: Vec<u8>,
    /// Whether the destination answers.
    answers: bool,
    /// How many hops its answer says it is away more than it is.
    detour: i8,
    /// Who refuses to pass anything on.
    refuses: Option<u8>,
}

const WAY: Way = Way { routers: 8, silent: Vec::new(), answers: true, detour: 0, refuses: None };

fn destination() -> IpAddr {
    [198, 51, 100, 1].into()
}

impl Way {
    fn answer(&self, ttl: u8) -> Option<Answer> {
        let at = |distance: u8, kind, detour: i8| Answer {
            kind,
            from: if kind == Kind::Reached { destination() } else { [192, 0, 2, distance].into() },
            rtt: Duration::from_millis(distance.into()),
            ttl_left: Some((65 - distance).saturating_add_signed(-detour)),
        };
        match self.refuses {
            Some(router) if ttl > router => return Some(at(router, Kind::Refused, 0)),
            _ if ttl > self.routers => return self.answers.then(|| at(self.routers + 1, Kind::Reached, self.detour)),
            _ => {}
        }
        (!self.silent.contains(&ttl)).then(|| at(ttl, Kind::Expired, 0))
    }

    /// Runs a trace over this way: what it did, then what it found.
    fn trace(&self, config: TraceConfig) -> String {
        let mut plan = Plan::new(config);
        let begun = Instant::now();
        let mut now = begun;
        let mut log = String::new();
        let mut coming: Vec<(Instant, u8, Answer)> = Vec::new();
        loop {
            match plan.next(now) {
                Next::Probe(ttls) => {
                    log += &format!("{} ms: probe {ttls:?}\n", (now - begun).as_millis());
                    let answers = ttls.iter().filter_map(|ttl| Some((*ttl, self.answer(*ttl)?)));
                    coming.extend(answers.map(|(ttl, answer)| (now + answer.rtt, ttl, answer)));
                    coming.sort_by_key(|(at, ttl, _)| (*at, *ttl));
                }
                Next::Wait(until) => match coming.first().copied().filter(|(at, ..)| *at <= until) {
                    Some((at, ttl, answer)) => {
                        coming.remove(0);
                        now = at;
                        plan.answered(ttl, answer);
                    }
                    None => now = until,
                },
                Next::Done => break,
            }
        }
        let trace = plan.into_trace(destination());
        let hops: Vec<String> = trace.hops.iter().map(|hop| format!("{} {}", hop.ttl, hop.addr)).collect();
        let reached = trace.reached.map_or("silent".to_owned(), |end| format!("{} hops, {:?}", end.distance, end.rtt));
        log + &format!("{} ms: {}; destination: {reached}\n", (now - begun).as_millis(), hops.join(", "))
    }
}

fn check(way: &Way, config: TraceConfig, expected: &Expect) {
    expected.assert_eq(&way.trace(config));
}

#[test]
fn the_last_hops_take_two_round_trips_and_six_probes() {
    check(
        &WAY,
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        9 ms: probe [4, 5, 6, 7, 8]
        17 ms: 4 192.0.2.4, 5 192.0.2.5, 6 192.0.2.6, 7 192.0.2.7, 8 192.0.2.8; destination: 9 hops, 9ms
    "#]],
    );
}

#[test]
fn a_router_that_keeps_silent_is_missing_and_costs_little() {
    check(
        &Way { silent: vec![6, 8], ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        9 ms: probe [4, 5, 6, 7, 8]
        77 ms: 4 192.0.2.4, 5 192.0.2.5, 7 192.0.2.7; destination: 9 hops, 9ms
    "#]],
    );
}

#[test]
fn where_fewer_routers_are_between_all_are_found() {
    check(
        &Way { routers: 2, ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        3 ms: probe [1, 2]
        5 ms: 1 192.0.2.1, 2 192.0.2.2; destination: 3 hops, 3ms
    "#]],
    );
    check(
        &Way { routers: 0, ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        1 ms: ; destination: 1 hops, 1ms
    "#]],
    );
}

#[test]
fn a_way_back_that_is_longer_is_noticed() {
    check(
        &Way { detour: 2, ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        9 ms: probe [6, 7, 8, 9, 10]
        18 ms: probe [4, 5]
        23 ms: 4 192.0.2.4, 5 192.0.2.5, 6 192.0.2.6, 7 192.0.2.7, 8 192.0.2.8; destination: 9 hops, 9ms
    "#]],
    );
}

#[test]
fn a_way_back_that_is_shorter_shifts_the_hops() {
    check(
        &Way { detour: -2, ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        9 ms: probe [2, 3, 4, 5, 6]
        15 ms: 2 192.0.2.2, 3 192.0.2.3, 4 192.0.2.4, 5 192.0.2.5, 6 192.0.2.6; destination: 7 hops, 9ms
    "#]],
    );
}

#[test]
fn a_silent_destination_is_swept_for() {
    check(
        &Way { answers: false, ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        500 ms: probe [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        566 ms: probe [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
        632 ms: 4 192.0.2.4, 5 192.0.2.5, 6 192.0.2.6, 7 192.0.2.7, 8 192.0.2.8; destination: silent
    "#]],
    );
    check(
        &Way { answers: false, routers: 12, silent: vec![3, 4, 5, 9, 10], ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        500 ms: probe [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        566 ms: probe [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
        640 ms: 8 192.0.2.8, 11 192.0.2.11, 12 192.0.2.12; destination: silent
    "#]],
    );
}

#[test]
fn where_nobody_answers_it_ends() {
    let dark = Way { answers: false, silent: (1..=8).collect(), ..WAY };
    check(
        &dark,
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        500 ms: probe [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        1000 ms: ; destination: silent
    "#]],
    );
    check(
        &dark,
        TraceConfig::FIRST,
        &expect![[r#"
        0 ms: probe [64, 1, 2, 3, 4, 5]
        500 ms: ; destination: silent
    "#]],
    );
}

#[test]
fn a_refusal_tells_where_the_way_ends() {
    check(
        &Way { refuses: Some(4), ..WAY },
        TraceConfig::LAST,
        &expect![[r#"
        0 ms: probe [64]
        4 ms: probe [1, 2, 3, 4]
        8 ms: 1 192.0.2.1, 2 192.0.2.2, 3 192.0.2.3, 4 192.0.2.4; destination: silent
    "#]],
    );
}

#[test]
fn the_first_hops_take_one_round_trip() {
    check(
        &WAY,
        TraceConfig::FIRST,
        &expect![[r#"
        0 ms: probe [64, 1, 2, 3, 4, 5]
        9 ms: 1 192.0.2.1, 2 192.0.2.2, 3 192.0.2.3, 4 192.0.2.4, 5 192.0.2.5; destination: 9 hops, 9ms
    "#]],
    );
    check(
        &Way { routers: 2, ..WAY },
        TraceConfig::FIRST,
        &expect![[r#"
        0 ms: probe [64, 1, 2, 3, 4, 5]
        3 ms: 1 192.0.2.1, 2 192.0.2.2; destination: 3 hops, 3ms
    "#]],
    );
    check(
        &Way { answers: false, silent: vec![1], ..WAY },
        TraceConfig::FIRST,
        &expect![[r#"
        0 ms: probe [64, 1, 2, 3, 4, 5]
        60 ms: 2 192.0.2.2, 3 192.0.2.3, 4 192.0.2.4, 5 192.0.2.5; destination: silent
    "#]],
    );
}

#[test]
fn whatever_is_answered_the_bounds_hold() {
    // Routers in a circle: whatever the TTL, somebody says that it has run out.
    let mut plan = Plan::new(TraceConfig { hops: u8::MAX, ..TraceConfig::LAST });
    let begun = Instant::now();
    let (mut now, mut sent) = (begun, 0);
    loop {
        match plan.next(now) {
            Next::Probe(ttls) => {
                sent += ttls.len();
                for ttl in ttls {
                    let from = [192, 0, 2, ttl % 3].into();
                    let rtt = Duration::from_secs(3600);
                    plan.answered(ttl, Answer { kind: Kind::Expired, from, rtt, ttl_left: Some(0) });
                }
            }
            Next::Wait(until) => now = until,
            Next::Done => break,
        }
    }
    assert!(sent <= MAX_PROBES && now - begun <= MAX_ROUNDS * TraceConfig::LAST.timeout);
    let trace = plan.into_trace(destination());
    assert_eq!((trace.hops.len(), trace.reached), (3, None), "each address once");
}

#[test]
fn a_distance_is_told_from_the_usual_first_ttls() {
    let distance = |ttl_left| {
        let rtt = Duration::ZERO;
        Answer { kind: Kind::Reached, from: destination(), rtt, ttl_left }.distance()
    };
    assert_eq!([64, 128, 255].map(|left| distance(Some(left))), [Some(1); 3]);
    assert_eq!([distance(Some(50)), distance(Some(120)), distance(Some(240))], [Some(15), Some(9), Some(16)]);
    assert_eq!([distance(None), distance(Some(0)), distance(Some(90))], [None; 3]);
}

#[tokio::test]
async fn nothing_is_between_this_machine_and_itself() {
    for config in [TraceConfig::FIRST, TraceConfig::LAST] {
        let trace = trace([127, 0, 0, 1].into(), &config).await.unwrap();
        assert_eq!((trace.hops, trace.reached.map(|end| end.distance)), (Vec::new(), Some(1)));
    }
}

#[tokio::test]
async fn an_address_of_nobody_is_refused() {
    for nobody in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:224.0.0.1"] {
        let refused = trace(nobody.parse().unwrap(), &TraceConfig::LAST).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{nobody}");
    }
}
