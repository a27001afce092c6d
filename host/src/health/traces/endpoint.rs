//! Where spans go: the configuration wins over OpenTelemetry's variables.
//!
//! Guarantees: what can't be done as it was asked for is an error that says so, and repeats no password.

use crate::config::TracesConfig;

/// Where spans go to. `None`: nobody asks for them; an error: it can't be done as it was asked for.
pub(super) fn endpoint(
    config: &TracesConfig,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<Result<String, String>> {
    const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const OF_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let with_path = |url: &str| format!("{}/v1/traces", url.trim_end_matches('/'));
    let (named_by, endpoint) = if let Some(configured) = &config.endpoint {
        let has_path = url::Url::parse(configured).is_ok_and(|url| url.path() != "/");
        ("traces.endpoint", if has_path { configured.clone() } else { with_path(configured) })
    } else if let Some(whole) = variable(OF_TRACES) {
        (OF_TRACES, whole)
    } else {
        (OF_ALL, with_path(&variable(OF_ALL)?))
    };
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(other) => {
            return Some(Err(format!("OTEL_TRACES_EXPORTER is {other:?}; reduct-sink has \"otlp\" and \"none\"")));
        }
    }
    let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(other) = protocol.filter(|protocol| protocol != "http/protobuf") {
        return Some(Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}; reduct-sink speaks \"http/protobuf\", at a collector's port 4318 as a rule"
        )));
    }
    let is_usable =
        url::Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // The text isn't repeated: it may hold a password.
    Some(if is_usable { Ok(endpoint) } else { Err(format!("{named_by} is no http:// or https:// address")) })
}

/// An address without a user's name and password.
pub(super) fn shown(endpoint: &str) -> String {
    let Ok(mut url) = url::Url::parse(endpoint) else { return String::new() };
    // These fail for an address without a host, which has none of them.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_wins_over_variables_and_what_cannot_be_done_is_said() {
        let of = |configured: Option<&str>, variables: &[(&str, &str)]| {
            let config = TracesConfig { endpoint: configured.map(str::to_owned) };
            endpoint(&config, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let (all, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let at = |url: &str| Some(Ok(url.to_owned()));
        assert_eq!(of(None, &[]), None, "off by default");
        assert_eq!(of(Some("http://a:4318"), &[(all, "http://b:1")]), at("http://a:4318/v1/traces"));
        assert_eq!(of(Some("http://a:4318/else"), &[]), at("http://a:4318/else"));
        assert_eq!(of(None, &[(all, "http://b:1/")]), at("http://b:1/v1/traces"));
        assert_eq!(of(None, &[(all, "http://b:1"), (traces, "http://c:2/x")]), at("http://c:2/x"));
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(of(Some("http://a:4318"), &[off]), None, "{off:?}");
        }
        let wrong = |variables: &[(&str, &str)]| of(None, variables).unwrap().unwrap_err();
        assert!(wrong(&[(all, "http://b:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).contains("http/protobuf"));
        assert!(wrong(&[(all, "http://b:1"), ("OTEL_TRACES_EXPORTER", "zipkin")]).contains("zipkin"));
        let told = wrong(&[(all, "user:secret@b")]);
        assert!(told.contains(all) && !told.contains("secret"), "{told}");
        assert_eq!(shown("http://user:secret@b:1/v1/traces?key=1"), "http://b:1/v1/traces");
    }
}
