//! Whether this thread trains: dropout acts then, and nowhere else.

use std::cell::Cell;

thread_local! {
    static TRAINING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the forward pass that runs now is one of training.
pub fn is_training() -> bool {
    TRAINING.get()
}

/// Runs `f` as training.
pub fn train<T>(f: impl FnOnce() -> T) -> T {
    /// Puts the mode back, also when `f` panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            TRAINING.set(self.0);
        }
    }
    let _before = Before(TRAINING.replace(true));
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_ends_with_its_scope() {
        assert!(!is_training());
        assert!(train(|| train(is_training) && is_training()));
        assert!(!is_training());
        assert!(std::panic::catch_unwind(|| train(|| std::panic::resume_unwind(Box::new(())))).is_err());
        assert!(!is_training());
    }
}
