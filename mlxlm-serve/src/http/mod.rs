//! HTTP: who may ask, bodies in, answers and events out.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod reply;
pub(crate) mod routes;
pub(crate) mod tls;
