//! The APIs: what a request may say, and what is answered. Each has a folder; what they share lies here.

pub(crate) mod adapters;
pub(crate) mod anthropic;
pub(crate) mod choices;
pub(crate) mod conversation;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod hold;
pub(crate) mod ids;
pub(crate) mod images;
pub(crate) mod models;
pub(crate) mod native;
pub(crate) mod openai;
pub(crate) mod prompt;
pub(crate) mod sampling;
pub(crate) mod speech;
pub(crate) mod wanted;

pub(crate) use fields::Fields;
