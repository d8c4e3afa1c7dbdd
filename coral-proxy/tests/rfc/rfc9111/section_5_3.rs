//! Expires.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::world;

#[tokio::test]
async fn a_date_in_any_form_counts_and_what_is_none_has_passed() {
    let (origin, node) = world().await;
    for (path, expires, fresh) in [
        ("/fixdate", "Thu, 18 Aug 2050 02:01:18 GMT", true),
        ("/rfc850", "Thursday, 18-Aug-50 02:01:18 GMT", true),
        ("/asctime", "Thu Aug 18 02:01:18 2050", true),
        ("/case", "THU, 18 aug 2050 02:01:18 gmt", true),
        ("/zone", "Thu, 18 Aug 2050 02:01:18 UTC", false),
        ("/zero", "0", false),
        ("/twice", "Thu, 18 Aug 2050 02:01:18 GMT\nexpires: Thu, 18 Aug 2050 02:01:18 GMT", false),
        ("/past", "Thu, 01 Jan 1970 00:00:01 GMT", false),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\nexpires: {expires}"), "x");
        get(node.addr, HOST, path).await;
        get(node.addr, HOST, path).await;
        assert_eq!(origin.count(path), if fresh { 1 } else { 2 }, "{path}");
    }
}
