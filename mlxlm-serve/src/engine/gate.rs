//! How many jobs may be in the server at once: those that are computed and those that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the jobs that are in the server.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    inside: Arc<AtomicUsize>,
    capacity: usize,
}

/// Places of jobs, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    inside: Arc<AtomicUsize>,
    places: usize,
}

impl Gate {
    /// At most `capacity` jobs are let in.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { inside: Arc::default(), capacity }
    }

    /// The most jobs that are let in.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The jobs that are in.
    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }

    /// Places for jobs that come together; nothing if there are not enough.
    pub(crate) fn enter(&self, places: usize) -> Option<Permit> {
        let add = |inside: usize| inside.checked_add(places).filter(|&after| after <= self.capacity);
        self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).ok()?;
        Some(Permit { inside: Arc::clone(&self.inside), places })
    }
}

impl Permit {
    /// Takes some of the places off, for a job of its own; nothing if there are not so many left.
    pub(crate) fn split(&mut self, places: usize) -> Option<Self> {
        self.places = self.places.checked_sub(places)?;
        Some(Self { inside: Arc::clone(&self.inside), places })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inside.fetch_sub(self.places, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_capacity_are_in() {
        let gate = Gate::new(3);
        let mut two = gate.enter(2).unwrap();
        assert!(gate.enter(2).is_none());
        let one = gate.enter(1).unwrap();
        assert_eq!(gate.inside(), 3);
        drop(one);
        let first = two.split(1).unwrap();
        drop(two);
        assert_eq!(gate.inside(), 1);
        drop(first);
        assert_eq!(gate.inside(), 0);
        assert!(gate.enter(usize::MAX).is_none());
    }
}
