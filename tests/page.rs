//! The node's own page, over sockets: at the bare suffix, where everybody comes, and at the admin address.

mod support;

use std::net::SocketAddr;

use coral::config::PublicPage;
use coral::demo::origin::Origin;
use support::{CORALIZED, Cluster, HOST, PATIENCE, eventually, fetch, map, origin, page, resolve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The bare suffix, as the browser of these tests asks for it.
const SUFFIX: &str = "nyud.net";

/// As many as listen at a time at most, from one client.
const LISTENERS: usize = 4;

/// One request as it is written; what comes until the far end closes, or until `enough` has.
async fn raw(addr: SocketAddr, request: &str, enough: impl Fn(&str) -> bool) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 16 << 10];
    let read = async {
        while !enough(&answer) {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                length => answer.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}: {answer}"));
    (stream, answer)
}

/// One answer to `method` of `target` at `host`, to the end.
async fn ask(addr: SocketAddr, method: &str, host: &str, target: &str) -> String {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    raw(addr, &request, |_| false).await.1
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(field, _)| field.eq_ignore_ascii_case(name)))
        .map(|(_, value)| value)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// Two nodes, of which the first has something, and the origin that it has it from.
async fn cluster(public: PublicPage) -> (Cluster, Origin) {
    let origin = origin(vec![page("/secret-page")]).await;
    let cluster = Cluster::with(2, |config| {
        map(config, HOST, origin.addr());
        config.page.public = public;
    })
    .await;
    // From the origin, then from here: two kinds of answers, and a search.
    for _ in 0..2 {
        assert_eq!(fetch(cluster.proxy(0), CORALIZED, "/secret-page").await.status, 200);
    }
    (cluster, origin)
}

#[tokio::test]
async fn everybody_sees_counts_and_the_operator_what_was_asked_for_too() {
    let (cluster, _origin) = cluster(PublicPage::Figures).await;
    let named = resolve(&cluster.nodes[0], SUFFIX).await.expect("the bare suffix leads to proxies");
    assert!(named.contains(&cluster.proxy(0).ip()), "{named:?}");
    for host in [SUFFIX, "nyud.net:8080", "NYUD.NET."] {
        let public = ask(cluster.proxy(0), "GET", host, "/").await;
        assert_eq!(status(&public), "200", "{public}");
        assert_eq!(field(&public, "content-type"), Some("text/html; charset=utf-8"));
        let policy = field(&public, "content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        for wanted in ["<form action=\"/coralize\"", "id=\"rings\"", "id=\"figures\"", "Answered without the origin"] {
            assert!(public.contains(wanted), "no {wanted} in {public}");
        }
        let nodes = cluster.nodes[1].me();
        for private in ["secret-page", HOST, "127.0.0.1", "127.0.0.2", &nodes.addr.to_string()] {
            // The example in the form is another page of this host.
            let without_example =
                public.replace("www.example.com/page.html", "").replace("www.example.com.nyud.net/page.html", "");
            let without_example = without_example.replace("www.example.com.", "");
            assert!(!without_example.contains(private), "{private} in {without_example}");
        }
        is_whole_in_itself(&public);
    }
    // What came before the first look at the counters is in the totals, and what is popular and sought needs no look.
    let operators = ask(cluster.admin(0), "GET", "127.0.0.1", "/").await;
    assert!(operators.contains("http://www.example.com/secret-page"), "{operators}");
    assert!(operators.contains("nobody has it: the origin"), "{operators}");
    assert!(operators.contains(&cluster.nodes[1].me().addr.to_string()), "{operators}");
    is_whole_in_itself(&operators);
    // Who looks has the node walk through its network, and sees whom it has met.
    for (addr, host) in [(cluster.proxy(0), SUFFIX), (cluster.admin(0), "127.0.0.1")] {
        let page =
            eventually(async || ask(addr, "GET", host, "/").await, |page| page.contains("whom it met on a walk")).await;
        assert!(page.contains("in the middle of 1 others"), "{page}");
    }
    let picture = ask(cluster.admin(0), "GET", "127.0.0.1", "/map.svg").await;
    assert!(operators.contains("/map.svg") && picture.contains("content-type: image/svg+xml"), "{picture}");
    assert!(picture.contains("<svg xmlns="), "{picture}");
    cluster.stop().await;
}

/// Whatever the page refers to is at the same host.
fn is_whole_in_itself(document: &str) {
    let body = body(document).replace("http://www.w3.org/2000/svg", "");
    for attribute in ["src=\"", "href=\"", "action=\""] {
        for target in body.split(attribute).skip(1) {
            assert!(target.starts_with('/') && !target.starts_with("//"), "{attribute}{}", &target[..30]);
        }
    }
    assert!(!body.contains("<style") && !body.contains(" style=") && !body.contains(" onclick="), "{body}");
    assert_eq!(body.matches("<script").count(), 1, "{body}");
}

#[tokio::test]
async fn what_the_page_needs_is_there_and_nothing_else() {
    let (cluster, _origin) = cluster(PublicPage::Figures).await;
    for (addr, host) in [(cluster.proxy(0), SUFFIX), (cluster.admin(0), "127.0.0.1")] {
        for (path, content_type) in [
            ("/page.css", "text/css; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
            ("/icon.svg", "image/svg+xml"),
        ] {
            let answer = ask(addr, "GET", host, path).await;
            assert_eq!((status(&answer), field(&answer, "content-type")), ("200", Some(content_type)), "{answer}");
            assert_eq!(field(&answer, "x-content-type-options"), Some("nosniff"));
            assert!(!body(&answer).replace("http://www.w3.org/2000/svg", "").contains("://"), "{path} leads elsewhere");
        }
        for path in ["/", "/page.css", "/events"] {
            let head = ask(addr, "HEAD", host, path).await;
            assert_eq!((status(&head), body(&head)), ("200", ""), "{head}");
        }
        for path in ["/nothing", "/page.css/", "/../", "//"] {
            assert_eq!(status(&ask(addr, "GET", host, path).await), "404", "{path}");
        }
        for method in ["POST", "DELETE"] {
            let answer = ask(addr, method, host, "/").await;
            assert_eq!(status(&answer), "405", "{answer}");
            assert!(field(&answer, "allow").is_some_and(|allow| allow.contains("GET")), "{answer}");
        }
    }
    assert_eq!(status(&ask(cluster.proxy(0), "OPTIONS", SUFFIX, "/").await), "204");
    // An address is no name of the network's.
    assert_eq!(status(&ask(cluster.proxy(0), "GET", "127.0.0.1", "/").await), "421");
    cluster.stop().await;
}

#[tokio::test]
async fn the_form_leads_below_the_suffix_and_nowhere_else() {
    let (cluster, _origin) = cluster(PublicPage::Form).await;
    let leads = async |host: &str, query: &str| {
        let answer = ask(cluster.proxy(0), "GET", host, &format!("/coralize?{query}")).await;
        (status(&answer).to_owned(), field(&answer, "location").unwrap_or_default().to_owned(), answer)
    };
    for (host, query, location) in [
        (SUFFIX, "url=http%3A%2F%2Fwww.example.com%2Fa+b", "http://www.example.com.nyud.net/a%20b"),
        ("nyud.net:8080", "url=www.example.com", "http://www.example.com.nyud.net:8080/"),
        (SUFFIX, "url=http%3A%2F%2Fb%C3%BCcher.example%2F", "http://xn--bcher-kva.example.nyud.net/"),
        (SUFFIX, "url=http%3A%2F%2Fx.com%2F%0D%0ASet-Cookie%3A%20a%3Db", "http://x.com.nyud.net/Set-Cookie:%20a=b"),
        (SUFFIX, "url=http%3A%2F%2Fwww.x.com.nyud.net%2Fp", "http://www.x.com.nyud.net/p"),
    ] {
        let (status, to, answer) = leads(host, query).await;
        assert_eq!((status.as_str(), to.as_str()), ("303", location), "{query}: {answer}");
        assert_eq!(field(&answer, "set-cookie"), None);
    }
    let long = format!("url=http://x.com/{}", "a".repeat(9000));
    for query in [
        "",
        "url=",
        "url=javascript:alert(1)",
        "url=data:text/html,%3Cscript%3Ealert(1)%3C/script%3E",
        "url=http://user:secret@x.com/",
        "url=http://nyud.net/coralize?url=http://x.com/",
        "url=http://localhost/",
        "url=%FF%FE",
        &long,
    ] {
        let (status, to, answer) = leads(SUFFIX, query).await;
        assert_eq!((status.as_str(), to.as_str()), ("400", ""), "{query}");
        assert!(answer.contains("role=\"alert\"") && !answer.contains("<script>"), "{query}: {answer}");
    }
    // Where the form alone is wanted, that is all.
    let form = ask(cluster.proxy(0), "GET", SUFFIX, "/").await;
    assert!(!form.contains("id=\"live\"") && form.contains("<form"), "{form}");
    assert_eq!(status(&ask(cluster.proxy(0), "GET", SUFFIX, "/events").await), "404");
    cluster.stop().await;
}

#[tokio::test]
async fn a_network_without_a_page_has_none_and_the_operator_has_it_still() {
    let (cluster, _origin) = cluster(PublicPage::Off).await;
    assert_eq!(status(&ask(cluster.proxy(0), "GET", SUFFIX, "/").await), "400");
    assert_eq!(status(&ask(cluster.admin(0), "GET", "localhost:1", "/").await), "200");
    // A site whose name leads here all of a sudden reads nothing.
    for path in ["/", "/events", "/status", "/lookup?url=http://x.com/"] {
        assert_eq!(status(&ask(cluster.admin(0), "GET", "evil.com:4161", path).await), "421", "{path}");
    }
    assert_eq!(status(&ask(cluster.admin(0), "GET", "node.example.org", "/metrics").await), "200");
    cluster.stop().await;
}

#[tokio::test]
async fn the_page_spares_no_origin_anything() {
    let cluster = Cluster::with(1, |_| {}).await;
    let proxy = cluster.proxy(0);
    for path in ["/", "/page.css", "/coralize?url=", "/nothing"] {
        assert!(!body(&ask(proxy, "GET", SUFFIX, path).await).is_empty());
    }
    let (_, events) = raw(proxy, &listen(SUFFIX, ""), |seen| seen.contains("\n\n")).await;
    assert!(events.contains("\"figures\""), "{events}");
    let page = ask(cluster.admin(0), "GET", "127.0.0.1", "/").await;
    assert!(page.contains("<dt>Spared origins</dt><dd>0 B</dd>"), "{page}");
    cluster.stop().await;
}

fn listen(host: &str, more: &str) -> String {
    format!("GET /events HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

#[tokio::test]
async fn events_come_to_a_few_and_end_when_the_node_stops() {
    let (cluster, _origin) = cluster(PublicPage::Figures).await;
    let (proxy, admin) = (cluster.proxy(0), cluster.admin(0));
    // Another site's page cannot have its visitors listen here.
    let (_, foreign) =
        raw(proxy, &listen(SUFFIX, "Origin: http://evil.com.nyud.net\r\n"), |seen| seen.contains("\r\n\r\n")).await;
    assert_eq!(status(&foreign), "403", "{foreign}");
    let own = format!("Origin: http://{SUFFIX}\r\n");
    let mut listeners = Vec::new();
    for number in 0..LISTENERS {
        let (stream, seen) = raw(proxy, &listen(SUFFIX, &own), |seen| seen.contains("\n\n")).await;
        assert_eq!((status(&seen), field(&seen, "content-type")), ("200", Some("text/event-stream")), "{seen}");
        assert!(seen.contains("\"figures\"") && !seen.contains("secret-page"), "{number}: {seen}");
        listeners.push(stream);
    }
    let (_, full) = raw(proxy, &listen(SUFFIX, &own), |seen| seen.contains("\r\n\r\n")).await;
    assert_eq!(status(&full), "503", "{full}");
    // One who leaves makes room, as soon as that is noticed.
    drop(listeners.pop());
    let again = async || raw(proxy, &listen(SUFFIX, &own), |seen| seen.contains("\r\n\r\n")).await;
    let (stream, _) = eventually(again, |(_, seen)| status(seen) == "200").await;
    listeners.push(stream);
    // What changes is told: a second event, of what was asked for between.
    let (mut operator, seen) = raw(admin, &listen("[::1]:1", ""), |seen| seen.contains("\n\n")).await;
    assert!(seen.contains("secret-page"), "{seen}");
    // Whatever is told has its place in the page.
    let data = seen.split("data: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let pieces: serde_json::Map<String, serde_json::Value> = serde_json::from_str(data).unwrap();
    let document = ask(admin, "GET", "127.0.0.1", "/").await;
    for id in pieces.keys() {
        assert!(document.contains(&format!(" id=\"{id}\"")), "no place for {id}");
    }
    assert_eq!(fetch(proxy, CORALIZED, "/secret-page?again").await.status, 200);
    let mut later = String::new();
    let mut buffer = [0; 16 << 10];
    let told = async {
        while !later.contains("secret-page?again") {
            let length = operator.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "it has ended: {later}");
            later.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    timeout(PATIENCE, told).await.expect("the operator is told");
    // The node stops at once, however many listen, and each stream ends as it should.
    cluster.stop().await;
    for mut stream in listeners {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    }
}
