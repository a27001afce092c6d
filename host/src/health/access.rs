//! Who may see what and who may act, over HTTP.
//!
//! Guarantees: whatever changes something is allowed only through the Unix socket, which only the host's own user can
//! open, or with the token of `status.token_file`; requests of web pages are refused unless the page is this host's own, and
//! so is every request whose `Host` is not an address or a name of this host, so that a page that has its own name resolve to
//! this machine reads nothing.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, Uri, header};

use crate::config::{Secret, read_small_text};

/// The way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through the Unix socket: it is the host's own user.
    Socket,
    /// Through a TCP port.
    Port,
}

/// What callers need to know and to have.
#[derive(Debug, Clone)]
pub struct Access {
    /// Nobody may act, whatever they have.
    pub actions_off: bool,
    /// Callers who have the token in this file may act.
    pub token_file: Option<PathBuf>,
    /// The host's part of the address that is listened on.
    pub own_name: String,
}

/// What one caller may do.
#[derive(Debug, Clone, Copy)]
pub struct Permission {
    /// Whether the caller may act and may see parts of records.
    pub may_act: bool,
    /// What a caller lacks who may not act; where a token was sent, that it was refused.
    pub lacks: &'static str,
    /// Whether a token was sent that will be refused again, as far as can be known: while the host can't read its own, nothing is.
    pub is_refused: bool,
}

impl Access {
    /// Why a request is answered with nothing; `None`: it is answered.
    pub fn refuse(&self, way: Way, headers: &HeaderMap) -> Option<&'static str> {
        if way == Way::Socket {
            return None;
        }
        // Who stands between might have looked at the other one.
        if [header::HOST, header::ORIGIN].iter().any(|name| headers.get_all(name).iter().count() > 1) {
            return Some("a request has one Host and one Origin header at most");
        }
        let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or_default());
        let host = text(header::HOST);
        // A page that this host served has the host's own address for its origin; a proxy may have added TLS.
        let is_own_page = |origin: &str| {
            let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            place.is_some() && place == host
        };
        if text(header::ORIGIN).is_some_and(|origin| !is_own_page(origin)) {
            return Some("requests of other web pages than this host's own are refused");
        }
        match host {
            Some(host) if self.is_own(host) => None,
            Some(_) => Some("the Host header names another machine; ask by an IP address, localhost or status.listen"),
            None => Some("a Host header is needed"),
        }
    }

    /// The same for the host that a request names in the place of its path, as requests to proxies do.
    pub fn refuse_target(&self, way: Way, uri: &Uri) -> Option<&'static str> {
        let is_own = way == Way::Socket || uri.authority().is_none_or(|named| self.is_own(named.as_str()));
        (!is_own).then_some("this is no proxy")
    }

    /// Whether the caller may act and may see parts of records.
    pub fn may_act(&self, way: Way, headers: &HeaderMap) -> bool {
        self.permission(way, headers).may_act
    }

    /// What the caller may do. Reads the token once: it may be replaced, or its file become unreadable, between two readings.
    pub fn permission(&self, way: Way, headers: &HeaderMap) -> Permission {
        let sent = headers.get(header::AUTHORIZATION);
        let token = sent.and_then(|_| self.token());
        let given = sent.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let is_right = matches!((&token, given), (Some(Ok(token)), Some(given)) if is_same(token, given));
        let may_act = !self.actions_off && (way == Way::Socket || is_right);
        let is_unknown = !self.actions_off && matches!(token, Some(Err(_)));
        let is_refused = sent.is_some() && !is_unknown && !may_act;
        let lacks = match (self.actions_off, &self.token_file) {
            (true, _) => "status.control is \"off\"",
            (false, Some(_)) if is_unknown => {
                "the token can't be checked, because the host can't read the file of status.token_file; its log says why"
            }
            (false, Some(_)) if sent.is_some() => {
                "the token was refused: it isn't the one in the file of status.token_file"
            }
            (false, Some(_)) => "this needs the host's Unix socket, or the token of status.token_file",
            (false, None) if sent.is_some() => {
                "the token was refused: this host takes none, because status.token_file isn't set"
            }
            (false, None) => {
                "this needs the host's Unix socket; set status.token_file to allow it to callers with a token"
            }
        };
        Permission { may_act, lacks, is_refused }
    }

    /// The token, read now, so that one that was replaced holds at once.
    pub fn token(&self) -> Option<Result<Secret, String>> {
        let path = self.token_file.as_ref()?;
        let text = read_small_text(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        Some(text.and_then(|text| match text.trim() {
            "" => Err(format!("{} is empty", path.display())),
            token => Ok(Secret::new(token)),
        }))
    }

    fn is_own(&self, host: &str) -> bool {
        let name = without_port(host);
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        address.is_some() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(&self.own_name)
    }
}

/// `host` of `host:port`; the brackets of an IPv6 address stay.
pub fn without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => address,
    }
}

/// Takes the same time wherever the first difference is.
fn is_same(token: &str, given: &str) -> bool {
    let differences = token.bytes().zip(given.bytes()).fold(0, |differences, (one, other)| differences | (one ^ other));
    token.len() == given.len() && differences == 0
}

/// Where a host that listens on `address` has its Unix socket: in a folder of the user's own, so that another user can
/// neither open it nor put another one there. `None`: there is no place for it.
pub fn socket_path(address: &str) -> Option<PathBuf> {
    let port = address.rsplit_once(':')?.1.parse::<u16>().ok()?;
    let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_absolute()) {
        Some(folder) => PathBuf::from(folder).join("reduct-sink"),
        None => std::env::temp_dir().join(format!("reduct-sink-{}", user_id())),
    };
    Some(folder.join(format!("{port}.sock")))
}

/// Refuses a folder that another user made or can enter: that user may have put the socket there.
pub fn check_own_folder(folder: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(folder)?;
    if found.is_dir() && found.uid() == user_id() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let reason = format!("{} isn't a folder of our own that others can't enter", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// The user that this process runs as.
#[expect(unsafe_code, reason = "the standard library doesn't tell the user")]
pub fn user_id() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    use super::*;

    fn headers(host: Option<&str>, more: &[(header::HeaderName, &str)]) -> HeaderMap {
        let host = host.map(|host| (header::HOST, host));
        let all = host.into_iter().chain(more.iter().cloned());
        all.map(|(name, value)| (name, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_that_is_refused_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "a-secret\n").unwrap();
        let access = |token_file| Access { actions_off: false, token_file, own_name: "sink".into() };
        let sent = headers(None, &[(header::AUTHORIZATION, "Bearer wrong")]);
        let of = |access: &Access, headers: &HeaderMap| access.permission(Way::Port, headers);
        let with_file = access(Some(file.clone()));
        let told = of(&with_file, &sent);
        assert!(!told.may_act && told.is_refused && told.lacks.contains("refused: it isn't the one"), "{told:?}");
        let none = of(&with_file, &headers(None, &[]));
        assert!(!none.is_refused && !none.lacks.contains("refused"), "none was sent");
        let told = of(&access(None), &sent);
        assert!(told.is_refused && told.lacks.contains("this host takes none"), "{told:?}");
        assert!(!of(&with_file, &headers(None, &[(header::AUTHORIZATION, "Bearer a-secret")])).is_refused);
        std::fs::remove_file(file).unwrap();
        let told = of(&with_file, &sent);
        assert!(told.lacks.contains("can't read the file") && !told.is_refused, "it may be the right one: {told:?}");
        assert!(of(&Access { actions_off: true, ..with_file }, &sent).is_refused);
    }

    /// As while a program replaces the file by removing it and writing it again.
    #[test]
    fn a_right_token_is_never_called_refused_while_its_file_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let [file, aside] = ["token", "aside"].map(|name| folder.path().join(name));
        std::fs::write(&file, "right").unwrap();
        let access = Access { actions_off: false, token_file: Some(file.clone()), own_name: String::new() };
        let sent = headers(None, &[(header::AUTHORIZATION, "Bearer right")]);
        std::thread::scope(|scope| {
            let coming_and_going = scope.spawn(|| {
                for _ in 0..20_000 {
                    std::fs::rename(&file, &aside).unwrap();
                    std::fs::rename(&aside, &file).unwrap();
                }
            });
            while !coming_and_going.is_finished() {
                let told = access.permission(Way::Port, &sent);
                assert!(!told.is_refused && (told.may_act || told.lacks.contains("can't read the file")), "{told:?}");
            }
        });
    }

    #[test]
    fn only_requests_for_this_host_are_answered() {
        let access = Access { actions_off: false, token_file: None, own_name: "sink-1.plant".into() };
        let refused = |host, more: &[_]| access.refuse(Way::Port, &headers(host, more)).is_some();
        for own in ["127.0.0.1:9640", "127.0.0.1", "[::1]:9640", "localhost:9640", "Sink-1.plant:9640", "10.0.0.7"] {
            assert!(!refused(Some(own), &[]), "{own}");
        }
        for other in ["evil.example", "evil.example:9640", "127.0.0.1.evil.example", ""] {
            assert!(refused(Some(other), &[]), "{other}");
        }
        assert!(refused(None, &[]));
        let from = |origin| refused(Some("127.0.0.1:9640"), &[(header::ORIGIN, origin)]);
        assert!(!from("http://127.0.0.1:9640") && !from("https://127.0.0.1:9640"), "its own page");
        for other in ["http://127.0.0.1:9641", "http://127.0.0.1", "http://evil.example", "null", "", "127.0.0.1:9640"]
        {
            assert!(from(other), "{other}");
        }
        assert!(refused(Some("evil.example"), &[(header::ORIGIN, "http://evil.example")]), "its Host isn't ours");
        assert_eq!(access.refuse(Way::Socket, &headers(None, &[])), None);
        for two in [("127.0.0.1", "evil.example"), ("evil.example", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")] {
            assert!(refused(Some(two.0), &[(header::HOST, two.1)]), "{two:?}");
        }
        let target = |text: &str| access.refuse_target(Way::Port, &text.parse().unwrap()).is_some();
        assert!(!target("/status") && !target("http://127.0.0.1:9640/status") && target("http://evil.example/status"));
    }

    #[test]
    fn a_folder_that_others_can_enter_is_not_our_own() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("reduct-sink");
        assert_eq!(check_own_folder(&folder).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        check_own_folder(&folder).unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(check_own_folder(&link).is_err(), "a link may lead elsewhere tomorrow");
        for mode in [0o701, 0o770, 0o755] {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(check_own_folder(&folder).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn acting_needs_the_socket_or_the_token() {
        let mut access = Access { actions_off: false, token_file: None, own_name: String::new() };
        let bearer = |token: &str| headers(Some("localhost"), &[(header::AUTHORIZATION, &format!("Bearer {token}"))]);
        assert!(access.may_act(Way::Socket, &headers(None, &[])));
        assert!(!access.may_act(Way::Port, &bearer("anything")));
        let folder = tempfile::tempdir().unwrap();
        access.token_file = Some(folder.path().join("token"));
        assert!(!access.may_act(Way::Port, &bearer("")), "there is no file");
        std::fs::write(folder.path().join("token"), "\n").unwrap();
        assert!(!access.may_act(Way::Port, &bearer("")), "it is empty");
        std::fs::write(folder.path().join("token"), "right\n").unwrap();
        assert!(access.may_act(Way::Port, &bearer("right")));
        for wrong in ["wrong", "righ", "right2", ""] {
            assert!(!access.may_act(Way::Port, &bearer(wrong)), "{wrong}");
        }
        assert!(!access.may_act(Way::Port, &headers(Some("localhost"), &[])));
        access.actions_off = true;
        assert!(!access.may_act(Way::Socket, &bearer("right")));
    }
}
