//! Requests to the status address: who is answered, and who may act.
#![no_main]

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use libfuzzer_sys::fuzz_target;
use reduct_sink::health::access::{Access, Way, socket_path, without_port};
use reduct_sink_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let own_name = "sink-1.plant";
    let access = Access { actions_off: input.byte() & 1 == 1, token_file: None, own_name: own_name.into() };
    let mut headers = HeaderMap::new();
    for name in [HOST, ORIGIN, AUTHORIZATION] {
        if let Some(value) = input.optional()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.append(name, value);
        }
    }
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or_default().to_owned());
    if access.refuse(Way::Port, &headers).is_none() {
        let host = host.expect("a request without a host was let in");
        let name = without_port(&host);
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let is_own = name.eq_ignore_ascii_case(own_name) || name.eq_ignore_ascii_case("localhost");
        assert!(is_address || is_own, "{host:?} was let in");
        let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
        let own = [format!("http://{host}"), format!("https://{host}")];
        assert!(origin.is_none_or(|origin| own.iter().any(|own| own == origin)), "a page of {origin:?} was let in");
    }
    assert!(!access.may_act(Way::Port, &headers), "nobody has a token");
    assert_eq!(access.may_act(Way::Socket, &headers), !access.actions_off);
    let _ = socket_path(&input.text());
});
