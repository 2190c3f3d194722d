//! Answers that later requests may go on from: the latest, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// The most answers that are kept, and the most bytes that they take as JSON.
const MOST: usize = 1024;
const MOST_BYTES: usize = 64 << 20;

/// An answer with the conversation that led to it.
#[derive(Debug)]
pub(crate) struct Kept {
    /// What was said before and in the answer, as templates take it.
    pub(crate) messages: Vec<Value>,
    pub(crate) response: Value,
    bytes: usize,
}

/// The answers that are kept, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<VecDeque<(String, Arc<Kept>)>>);

impl Memory {
    /// Keeps an answer under its name.
    pub(crate) fn keep(&self, id: &str, messages: Vec<Value>, response: Value) {
        let bytes =
            response.to_string().len() + messages.iter().map(|message| message.to_string().len()).sum::<usize>();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back((id.to_owned(), Arc::new(Kept { messages, response, bytes })));
        let mut total: usize = all.iter().map(|(_, kept)| kept.bytes).sum();
        while all.len() > MOST || total > MOST_BYTES {
            let Some((_, kept)) = all.pop_front() else { break };
            total -= kept.bytes;
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Kept>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rfind(|(own, _)| own == id).map(|(_, kept)| Arc::clone(kept))
    }

    /// Forgets an answer; whether there was one.
    pub(crate) fn remove(&self, id: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        all.retain(|(own, _)| own != id);
        all.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let memory = Memory::default();
        for i in 0..=MOST {
            memory.keep(&i.to_string(), Vec::new(), Value::Null);
        }
        assert!(memory.get("0").is_none() && memory.get("1").is_some());
        assert!(memory.remove("1") && !memory.remove("1") && memory.get("1").is_none());
        memory.keep("large", vec!["x".repeat(MOST_BYTES).into()], Value::Null);
        assert!(memory.get("large").is_none());
    }
}
