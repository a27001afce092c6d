//! Reads a schema from a file in a granted directory, or over HTTP from a granted host.
//!
//! Guarantees: an error says whether there is no such schema, or whether its place can't be reached at present.

/// The most bytes of a schema.
pub const MOST_BYTES: usize = 8 << 20;

/// Why a schema couldn't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// There is no such schema.
    Missing(String),
    /// The schema's place couldn't be reached or gave an error; another attempt may succeed.
    Away(String),
}

impl FetchError {
    pub fn into_text(self) -> String {
        match self {
            Self::Missing(text) | Self::Away(text) => text,
        }
    }
}

/// Whether an answer with this status means that there is no such schema. After any other error another attempt may
/// succeed, for example when the registry grants access or is less busy.
#[cfg(any(target_arch = "wasm32", test))]
fn is_missing(status: u16) -> bool {
    matches!(status, 400..=499) && !matches!(status, 401 | 403 | 408 | 425 | 429)
}

/// The bytes of a file, or of the answer from an `http://` or `https://` address.
pub fn fetch(place: &str) -> Result<Vec<u8>, FetchError> {
    let bytes = match place.split_once("://") {
        Some(("http", rest)) => io::get(false, rest),
        Some(("https", rest)) => io::get(true, rest),
        Some(_) => Err(FetchError::Missing(format!("{place}: a schema is a file, or at http:// or https://"))),
        None => io::read(place),
    }?;
    if bytes.len() > MOST_BYTES {
        return Err(FetchError::Missing(format!("{place}: more than {MOST_BYTES} bytes are no schema")));
    }
    Ok(bytes)
}

/// Stands for HTTP in the unit tests on the developer's machine.
#[cfg(not(target_arch = "wasm32"))]
mod io {
    use super::FetchError;

    pub fn read(path: &str) -> Result<Vec<u8>, FetchError> {
        std::fs::read(path).map_err(|error| FetchError::Missing(format!("cannot read {path}: {error}")))
    }

    pub fn get(_: bool, rest: &str) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::Away(format!("{rest}: there is no HTTP here")))
    }
}

#[cfg(target_arch = "wasm32")]
mod io {
    use wasip2::filesystem::preopens::get_directories;
    use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{Fields, IncomingBody, OutgoingRequest, Scheme};
    use wasip2::io::streams::StreamError;

    use super::{FetchError, MOST_BYTES, is_missing};

    const CHUNK: u64 = 64 * 1024;

    pub fn read(path: &str) -> Result<Vec<u8>, FetchError> {
        let directories = get_directories();
        let inside = directories.iter().find_map(|(directory, name)| {
            let rest = path.strip_prefix(name.trim_end_matches('/'))?;
            Some((directory, rest.strip_prefix('/')?))
        });
        let Some((directory, rest)) = inside else {
            let names: Vec<&str> = directories.iter().map(|(_, name)| name.as_str()).collect();
            let granted = if names.is_empty() { "none is granted".into() } else { names.join(", ") };
            let text = format!("{path} is in no directory of `grants.directories`: {granted}");
            return Err(FetchError::Missing(text));
        };
        content(directory, rest).map_err(|error| match error {
            ErrorCode::NoEntry => FetchError::Missing(format!("there is no file {path}")),
            ErrorCode::Access | ErrorCode::NotPermitted | ErrorCode::IsDirectory => {
                FetchError::Missing(format!("cannot read {path}: {}", error.name()))
            }
            error => FetchError::Away(format!("cannot read {path}: {}", error.name())),
        })
    }

    fn content(directory: &Descriptor, path: &str) -> Result<Vec<u8>, ErrorCode> {
        let file = directory.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ)?;
        let mut bytes = Vec::new();
        loop {
            let (part, is_end) = file.read(CHUNK, bytes.len() as u64)?;
            let is_end = is_end || part.is_empty() || bytes.len() > MOST_BYTES;
            bytes.extend(part);
            if is_end {
                return Ok(bytes);
            }
        }
    }

    pub fn get(is_tls: bool, rest: &str) -> Result<Vec<u8>, FetchError> {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let place = || format!("http{}://{rest}", if is_tls { "s" } else { "" });
        let away = |what: &str| FetchError::Away(format!("{}: {what}", place()));
        let headers = Fields::new();
        let accepted = b"application/vnd.schemaregistry.v1+json, application/json, */*;q=0.5".to_vec();
        headers.append("accept", &accepted).map_err(|_| away("the request can't be made"))?;
        let request = OutgoingRequest::new(headers);
        let scheme = if is_tls { Scheme::Https } else { Scheme::Http };
        let made = request.set_scheme(Some(&scheme)).is_ok()
            && request.set_authority(Some(authority)).is_ok()
            && request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).is_ok();
        if !made {
            return Err(FetchError::Missing(format!("{} is no address", place())));
        }
        let answer = outgoing_handler::handle(request, None).map_err(|error| away(&format!("{error:?}")))?;
        answer.subscribe().block();
        let response = match answer.get() {
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(error))) => return Err(away(&format!("{error:?}"))),
            _ => return Err(away("no answer")),
        };
        match response.status() {
            200 => {}
            status if is_missing(status) => return Err(FetchError::Missing(format!("{} answers {status}", place()))),
            status => return Err(away(&format!("it answers {status}"))),
        }
        let body = response.consume().map_err(|()| away("the answer has no body"))?;
        let bytes = whole(&body).map_err(|()| away("the answer breaks off"))?;
        Ok(bytes)
    }

    fn whole(body: &IncomingBody) -> Result<Vec<u8>, ()> {
        let stream = body.stream()?;
        let mut bytes = Vec::new();
        while bytes.len() <= MOST_BYTES {
            match stream.blocking_read(CHUNK) {
                Ok(part) => bytes.extend(part),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(_)) => return Err(()),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_may_pass_is_no_missing_schema() {
        for missing in [400, 404, 405, 410, 422, 499] {
            assert!(is_missing(missing), "{missing}");
        }
        for away in [301, 302, 401, 403, 408, 425, 429, 500, 502, 503, 504] {
            assert!(!is_missing(away), "{away}");
        }
    }
}
