//! The client of the local API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::control::{
    ControlError, LogQuery, MemberRequest, MemberRole, MountRequest, QuotaRequest, UnmountRequest,
    WaitQuery,
};
use super::report::{
    CertificateReport, ConflictReport, Identity, LogEntry, MemberChanged, MountReport, QuotaReport,
    Reached, SoleReport, Status, TokenCreated, TokenReport, VolumeReport, WhereReport,
};
use super::server::{CreateToken, CreateVolume};
use super::socket;

/// Bytes of an answer at most; the largest is a full log page.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Asks the daemon behind one socket; a connection per request.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    pub fn new(socket: PathBuf, timeout: Duration) -> Client {
        Client { socket, timeout }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The same daemon with another patience.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { socket: self.socket.clone(), timeout }
    }

    pub async fn identity(&self) -> Result<Identity, ControlError> {
        self.ask(Method::GET, "/v1/identity", &()).await
    }

    pub async fn status(&self) -> Result<Status, ControlError> {
        self.ask(Method::GET, "/v1/status", &()).await
    }

    pub async fn log(&self, query: &LogQuery) -> Result<Vec<LogEntry>, ControlError> {
        self.ask(Method::GET, &format!("/v1/log?{}", log_query(query)), &()).await
    }

    /// Gives each agreement to `each` as it comes, as a line of JSON, for as long as the daemon
    /// lives.
    ///
    /// # Errors
    /// `NoDaemon` when it goes away, `Gone` when what comes next is not kept any more.
    pub async fn follow_log(
        &self,
        query: &LogQuery,
        mut each: impl FnMut(&[u8]) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let path = format!("/v1/log/follow?{}", log_query(query));
        let (response, driver) = self.within(self.send(Method::GET, &path, &())).await?;
        if !response.status().is_success() {
            return self.answer::<()>(response).await;
        }
        let mut body = response.into_body();
        let mut line = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            for piece in frame
                .data_ref()
                .into_iter()
                .flat_map(|data| data.split_inclusive(|byte| *byte == b'\n'))
            {
                line.extend_from_slice(piece);
                let Some(whole) = line.strip_suffix(b"\n") else { continue };
                if let Ok(Last { error }) = serde_json::from_slice(whole) {
                    return Err(error);
                }
                each(whole)?;
                line.clear();
            }
        }
        driver.abort();
        Err(self.broken(&"it closed the connection"))
    }

    /// `path` from the volume's root.
    pub async fn where_path(&self, path: &str) -> Result<WhereReport, ControlError> {
        self.ask(Method::GET, &format!("/v1/where?path={}", percent_encode(path)), &()).await
    }

    pub async fn create_token(
        &self,
        zone: &str,
        role: MemberRole,
        lifetime: Duration,
    ) -> Result<TokenCreated, ControlError> {
        let zone = zone.to_owned();
        let request = CreateToken { zone, role, lifetime_seconds: lifetime.as_secs() };
        self.ask(Method::POST, "/v1/tokens", &request).await
    }

    pub async fn list_tokens(&self) -> Result<Vec<TokenReport>, ControlError> {
        self.ask(Method::GET, "/v1/tokens", &()).await
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), ControlError> {
        self.ask(Method::DELETE, &format!("/v1/tokens/{}", percent_encode(id)), &()).await
    }

    /// Waits as long as this client has patience.
    pub async fn wait(&self, query: &WaitQuery) -> Result<Reached, ControlError> {
        self.ask(Method::POST, "/v1/wait", query).await
    }

    /// No `nodes`: all.
    pub async fn create_volume(
        &self,
        name: &str,
        nodes: &[String],
    ) -> Result<VolumeReport, ControlError> {
        let request = CreateVolume { name: name.to_owned(), nodes: nodes.to_vec() };
        self.ask(Method::POST, "/v1/volumes", &request).await
    }

    pub async fn list_volumes(&self) -> Result<Vec<VolumeReport>, ControlError> {
        self.ask(Method::GET, "/v1/volumes", &()).await
    }

    pub async fn change_member(
        &self,
        request: &MemberRequest,
    ) -> Result<MemberChanged, ControlError> {
        self.ask(Method::POST, "/v1/members", request).await
    }

    pub async fn sole_copies(&self, request: &MemberRequest) -> Result<SoleReport, ControlError> {
        self.ask(Method::POST, "/v1/members/sole", request).await
    }

    pub async fn certificate(&self) -> Result<CertificateReport, ControlError> {
        self.ask(Method::GET, "/v1/certificate", &()).await
    }

    pub async fn rotate_certificate(&self) -> Result<CertificateReport, ControlError> {
        self.ask(Method::POST, "/v1/certificate", &()).await
    }

    pub async fn list_conflicts(&self) -> Result<Vec<ConflictReport>, ControlError> {
        self.ask(Method::GET, "/v1/conflicts", &()).await
    }

    pub async fn set_quota(&self, request: &QuotaRequest) -> Result<QuotaReport, ControlError> {
        self.ask(Method::PUT, "/v1/quotas", request).await
    }

    /// Of the volume that is mounted at `mount`.
    pub async fn end_quota(&self, mount: &str, path: &str) -> Result<(), ControlError> {
        let (mount, path) = (percent_encode(mount), percent_encode(path));
        let path = format!("/v1/quotas?mount={mount}&path={path}");
        self.ask(Method::DELETE, &path, &()).await
    }

    pub async fn list_quotas(&self) -> Result<Vec<QuotaReport>, ControlError> {
        self.ask(Method::GET, "/v1/quotas", &()).await
    }

    pub async fn mount(&self, request: &MountRequest) -> Result<MountReport, ControlError> {
        self.ask(Method::POST, "/v1/mounts", request).await
    }

    pub async fn unmount(&self, request: &UnmountRequest) -> Result<(), ControlError> {
        self.ask(Method::DELETE, "/v1/mounts", request).await
    }

    pub async fn shutdown(&self) -> Result<(), ControlError> {
        self.ask(Method::POST, "/v1/shutdown", &()).await
    }

    async fn ask<Q: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: &Q,
    ) -> Result<T, ControlError> {
        self.within(async {
            let (response, driver) = self.send(method, path, request).await?;
            let answer = self.answer(response).await;
            driver.abort();
            answer
        })
        .await
    }

    /// As long as this client has patience.
    async fn within<T>(
        &self,
        exchange: impl Future<Output = Result<T, ControlError>>,
    ) -> Result<T, ControlError> {
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            Err(ControlError::timeout(format!(
                "no answer from {} within {} s",
                self.socket.display(),
                self.timeout.as_secs_f32()
            ))
            .hint("the zone may be cut off from the majority: `fusion status`; wait longer: --timeout"))
        })
    }

    async fn send<Q: Serialize>(
        &self,
        method: Method,
        path: &str,
        request: &Q,
    ) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>), ControlError> {
        let stream =
            socket::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        let driver = tokio::spawn(connection);
        let body = serde_json::to_vec(request).expect("requests have JSON forms");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "fusion")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .expect("paths are encoded");
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Ok((response, driver))
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<T, ControlError> {
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.broken(&error))?
            .to_bytes();
        let unreadable = |error: serde_json::Error| {
            ControlError::failed(format!("the daemon's answer ({status}) cannot be read: {error}"))
                .hint("the daemon and this program may be of different versions: `fusion version`")
        };
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(unreadable)
        } else {
            Err(serde_json::from_slice::<ControlError>(&bytes).map_err(unreadable)?)
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ControlError {
        ControlError::no_daemon(format!(
            "the daemon at {} went away: {error}",
            self.socket.display()
        ))
        .hint("look at its log: journalctl -u 'fusion*', or the demo's log directory")
    }

    fn unreachable(&self, error: &std::io::Error) -> ControlError {
        let place = self.socket.display();
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ControlError::refused(format!("{place}: permission denied"))
                    .hint("run as root or as a member of the group fusion")
            }
            _ => ControlError::no_daemon(format!("no daemon answers at {place} ({error})"))
                .hint("start one: systemctl start fusion, or `fusion serve --store DIR`"),
        }
    }
}

/// The last line of a stream that ends.
#[derive(Deserialize)]
struct Last {
    error: ControlError,
}

fn log_query(query: &LogQuery) -> String {
    let LogQuery { from, limit, wait_ms, volume, changes, node, zone, uid, path } = query;
    let mut text = format!("from={from}&limit={limit}&changes={changes}");
    let numbers = [("wait_ms", *wait_ms), ("uid", uid.map(u64::from))];
    for (key, value) in numbers {
        text.extend(value.map(|value| format!("&{key}={value}")));
    }
    for (key, value) in [("volume", volume), ("node", node), ("zone", zone), ("path", path)] {
        text.extend(value.as_ref().map(|value| format!("&{key}={}", percent_encode(value))));
    }
    text
}

/// Encodes everything but unreserved characters (RFC 3986, 2.3).
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_cannot_carry_is_encoded() {
        assert_eq!(percent_encode("/a b&c=%é"), "/a%20b%26c%3D%25%C3%A9");
    }
}
