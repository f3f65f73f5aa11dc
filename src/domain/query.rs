//! The question that is put to the policies, whole: whatever can influence a decision is in here,
//! and the audit log keeps it, so that any decision can be made again.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::device::Device;
use super::principal::{Authentication, Principal};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessQuery {
    pub principal: Arc<Principal>,
    pub authentication: Arc<Authentication>,
    pub action: Action,
    pub resource: Arc<Resource>,
    pub context: RequestContext,
}

/// What is asked for: a route, with the application, zone and tenant that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    pub route: Arc<str>,
    pub application: Arc<str>,
    /// IEC 62443 zone of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// The tenant that owns the route, else the one that owns its application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
}

/// The request's own facts. Host and path are the canonical ones, which are also forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestContext {
    pub host: Arc<str>,
    pub path: Arc<str>,
    pub method: Arc<str>,
    pub source: IpAddr,
    pub time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Arc<Device>>,
}

/// A concrete action. Each is a member of the group `view` or the group `operate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    #[serde(rename = "http:GET")]
    HttpGet,
    #[serde(rename = "http:HEAD")]
    HttpHead,
    #[serde(rename = "http:OPTIONS")]
    HttpOptions,
    #[serde(rename = "http:POST")]
    HttpPost,
    #[serde(rename = "http:PUT")]
    HttpPut,
    #[serde(rename = "http:PATCH")]
    HttpPatch,
    #[serde(rename = "http:DELETE")]
    HttpDelete,
    /// Any other method that may be forwarded (WebDAV and the like); its name is in the context.
    #[serde(rename = "http:other")]
    HttpOther,
    /// Opening a WebSocket and receiving what the server sends on it.
    #[serde(rename = "websocket:receive")]
    WebSocketReceive,
    /// Sending data frames on a WebSocket.
    #[serde(rename = "websocket:send")]
    WebSocketSend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionGroup {
    View,
    Operate,
}

impl Action {
    pub const ALL: [Self; 10] = [
        Self::HttpGet,
        Self::HttpHead,
        Self::HttpOptions,
        Self::HttpPost,
        Self::HttpPut,
        Self::HttpPatch,
        Self::HttpDelete,
        Self::HttpOther,
        Self::WebSocketReceive,
        Self::WebSocketSend,
    ];

    /// The id of the Cedar action, and the name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HttpGet => "http:GET",
            Self::HttpHead => "http:HEAD",
            Self::HttpOptions => "http:OPTIONS",
            Self::HttpPost => "http:POST",
            Self::HttpPut => "http:PUT",
            Self::HttpPatch => "http:PATCH",
            Self::HttpDelete => "http:DELETE",
            Self::HttpOther => "http:other",
            Self::WebSocketReceive => "websocket:receive",
            Self::WebSocketSend => "websocket:send",
        }
    }

    pub const fn group(self) -> ActionGroup {
        match self {
            Self::HttpGet | Self::HttpHead | Self::HttpOptions | Self::WebSocketReceive => {
                ActionGroup::View
            }
            Self::HttpPost
            | Self::HttpPut
            | Self::HttpPatch
            | Self::HttpDelete
            | Self::HttpOther
            | Self::WebSocketSend => ActionGroup::Operate,
        }
    }

    /// The action of an HTTP method (case matters, RFC 9110 section 9.1).
    pub fn from_method(method: &str) -> Self {
        match method {
            "GET" => Self::HttpGet,
            "HEAD" => Self::HttpHead,
            "OPTIONS" => Self::HttpOptions,
            "POST" => Self::HttpPost,
            "PUT" => Self::HttpPut,
            "PATCH" => Self::HttpPatch,
            "DELETE" => Self::HttpDelete,
            _ => Self::HttpOther,
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}
