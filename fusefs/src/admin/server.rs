//! The local API: HTTP and JSON on a unix socket.
//!
//! | request | answer |
//! |---|---|
//! | GET /v1/identity | `Identity` |
//! | GET /v1/status | `Status` |
//! | GET /v1/log?from&limit&wait_ms&.. | `[LogEntry]`; see `LogQuery` |
//! | GET /v1/log/follow?from&.. | `LogEntry`, each on a line, as they come; at last `{"error": ControlError}` |
//! | GET /v1/metrics | OpenMetrics text |
//! | GET /v1/where?path | `WhereReport` |
//! | GET, POST /v1/tokens | `[TokenReport]`, `TokenCreated` |
//! | DELETE /v1/tokens/{id} | nothing |
//! | POST /v1/wait | `Reached`, when it is |
//! | GET, POST /v1/volumes | `[VolumeReport]`, `VolumeReport` |
//! | POST /v1/members | `MemberChanged`, for a `MemberRequest` |
//! | POST /v1/members/sole | `SoleReport`, for a `MemberRequest` whatever its action |
//! | GET, POST /v1/certificate | `CertificateReport`; POST renews it first |
//! | GET /v1/conflicts | `[ConflictReport]` |
//! | GET, PUT /v1/quotas | `[QuotaReport]`, `QuotaReport` |
//! | DELETE /v1/quotas?path&mount | nothing |
//! | POST, DELETE /v1/mounts | `MountReport`, nothing |
//! | POST /v1/shutdown | nothing; answered when the node has stopped |
//!
//! Quotas are changed by root, or by whoever runs the daemon; everything else by whoever may
//! open the socket. A failure is a `ControlError` with a 4xx or 5xx status.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::control::{
    Control, ControlError, FailureKind, LogQuery, MemberRequest, MemberRole, MountRequest,
    QuotaPlace, QuotaRequest, Reply, UnmountRequest, WaitQuery,
};
use super::socket;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Entries that one log answer carries at most: keeps an answer in the low megabytes.
const LOG_LIMIT_MAX: usize = 10_000;
/// A waiting log request is answered (empty) after so long at most, so that a client that
/// went away is noticed.
const LOG_WAIT_MAX_MS: u64 = 30_000;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    pub zone: String,
    #[serde(default)]
    pub role: MemberRole,
    pub lifetime_seconds: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    pub name: String,
    /// Names; none = all nodes.
    pub nodes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct WhereQuery {
    path: String,
}

/// Listens at `path`.
///
/// # Errors
/// A sentence for the operator if the socket cannot be made or a daemon is there already.
pub async fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    socket::listen(path).await.map_err(|error| {
        ControlError::failed(format!("cannot listen at {}: {error}", path.display())).hint(
            "another daemon may serve this store: `fusion status`; or choose a place: --socket",
        )
    })
}

/// Answers requests until the task is dropped.
///
/// # Errors
/// When the socket breaks.
pub async fn serve(listener: UnixListener, control: Arc<dyn Control>) -> std::io::Result<()> {
    let routes = routes(control).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, routes).await
}

fn routes(control: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/v1/identity", get(async |State(c): Shared| Json(c.identity())))
        .route("/v1/status", get(async |State(c): Shared| answer(c.status()).await))
        .route("/v1/log", get(read_log))
        .route("/v1/log/follow", get(follow_log))
        .route("/v1/metrics", get(metrics))
        .route("/v1/where", get(where_path))
        .route("/v1/tokens", get(async |State(c): Shared| answer(c.list_tokens()).await))
        .route("/v1/tokens", post(create_token))
        .route("/v1/tokens/{id}", delete(revoke_token))
        .route("/v1/wait", post(wait))
        .route("/v1/volumes", get(async |State(c): Shared| answer(c.list_volumes()).await))
        .route("/v1/volumes", post(create_volume))
        .route("/v1/members", post(change_member))
        .route("/v1/members/sole", post(sole_copies))
        .route(
            "/v1/certificate",
            get(async |State(c): Shared| answer(c.certificate()).await)
                .post(async |State(c): Shared| answer(c.rotate_certificate()).await),
        )
        .route("/v1/conflicts", get(async |State(c): Shared| answer(c.list_conflicts()).await))
        .route("/v1/quotas", get(async |State(c): Shared| answer(c.list_quotas()).await))
        .route("/v1/quotas", put(set_quota).delete(end_quota))
        .route("/v1/mounts", post(mount).delete(unmount))
        .route("/v1/shutdown", post(async |State(c): Shared| answer(c.shutdown()).await))
        .fallback(async || {
            Failure(
                ControlError::usage("no such request")
                    .hint("this client may be newer than the daemon"),
            )
        })
        .with_state(control)
}

type Shared = State<Arc<dyn Control>>;

async fn read_log(State(control): Shared, Query(mut query): Query<LogQuery>) -> Response {
    query.limit = query.limit.min(LOG_LIMIT_MAX);
    query.wait_ms = query.wait_ms.map(|wait| wait.min(LOG_WAIT_MAX_MS));
    answer(control.log(query)).await
}

/// Nothing is read before the client has taken what was read last.
async fn follow_log(State(control): Shared, Query(query): Query<LogQuery>) -> Response {
    let follower = match control.follow_log(query).await {
        Ok(follower) => follower,
        Err(error) => return Failure(error).into_response(),
    };
    let lines = stream::unfold(Some(follower), async |follower| {
        let mut follower = follower?;
        match follower.next().await {
            Ok(lines) => Some((Ok::<_, Infallible>(lines), Some(follower))),
            Err(error) => {
                let last = serde_json::json!({ "error": error });
                Some((Ok(format!("{last}\n").into()), None))
            }
        }
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn metrics(State(control): Shared) -> Response {
    match control.metrics().await {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => Failure(error).into_response(),
    }
}

async fn where_path(State(control): Shared, Query(query): Query<WhereQuery>) -> Response {
    answer(control.where_path(query.path)).await
}

async fn create_token(State(control): Shared, Json(request): Json<CreateToken>) -> Response {
    let lifetime = Duration::from_secs(request.lifetime_seconds);
    answer(control.create_token(request.zone, request.role, lifetime)).await
}

async fn revoke_token(
    State(control): Shared,
    axum::extract::Path(id): axum::extract::Path<String>,
) -> Response {
    answer(control.revoke_token(id)).await
}

async fn wait(State(control): Shared, Json(query): Json<WaitQuery>) -> Response {
    answer(control.wait(query)).await
}

async fn create_volume(State(control): Shared, Json(request): Json<CreateVolume>) -> Response {
    answer(control.create_volume(request.name, request.nodes)).await
}

async fn set_quota(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<QuotaRequest>,
) -> Response {
    match peer.check_is_owner() {
        Ok(()) => answer(control.set_quota(request)).await,
        Err(error) => Failure(error).into_response(),
    }
}

async fn end_quota(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(place): Query<QuotaPlace>,
) -> Response {
    match peer.check_is_owner() {
        Ok(()) => answer(control.end_quota(place)).await,
        Err(error) => Failure(error).into_response(),
    }
}

async fn change_member(State(control): Shared, Json(request): Json<MemberRequest>) -> Response {
    answer(control.change_member(request)).await
}

async fn sole_copies(State(control): Shared, Json(request): Json<MemberRequest>) -> Response {
    answer(control.sole_copies(request)).await
}

async fn mount(State(control): Shared, Json(request): Json<MountRequest>) -> Response {
    answer(control.mount(request)).await
}

async fn unmount(State(control): Shared, Json(request): Json<UnmountRequest>) -> Response {
    answer(control.unmount(request)).await
}

async fn answer<T: Serialize>(reply: Reply<'_, T>) -> Response {
    match reply.await {
        Ok(value) => Json(value).into_response(),
        Err(error) => Failure(error).into_response(),
    }
}

/// Who is at the other end of the socket; `None` if the kernel does not say.
#[derive(Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        Peer { uid: stream.io().peer_cred().ok().map(|cred| cred.uid()) }
    }
}

impl Peer {
    fn check_is_owner(self) -> Result<(), ControlError> {
        let own = rustix::process::geteuid().as_raw();
        if self.uid.is_some_and(|uid| uid == 0 || uid == own) {
            return Ok(());
        }
        Err(ControlError::refused("only root may change quotas").hint("run it with sudo"))
    }
}

struct Failure(ControlError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            FailureKind::Usage => StatusCode::BAD_REQUEST,
            FailureKind::Refused => StatusCode::CONFLICT,
            FailureKind::Gone => StatusCode::GONE,
            FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            FailureKind::Degraded | FailureKind::NoDaemon => StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::Failed | FailureKind::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}
