//! Orders drawn from a seed, as MLX draws them: what makes a run come again, here and in Python.

use mlx_rs::error::Exception;
use mlx_rs::random::RandomState;

use crate::{Result, raw};

/// The numbers below `count` in the order that `mx.random.permutation(count)` gives first after `mx.random.seed(seed)`.
pub fn permutation(count: usize, seed: u64) -> Result<Vec<usize>> {
    let count =
        i32::try_from(count).map_err(|_| Exception::custom("there are too many things to bring into an order"))?;
    let key = RandomState::with_seed(seed)?.next_key()?;
    #[allow(unsafe_code, reason = "call of the C interface")]
    let order = raw::try_array(|result, stream| {
        // SAFETY: the key is alive.
        unsafe { mlx_sys::mlx_random_permutation_arange(result, count, key.as_ptr(), stream) }
    })?;
    Ok(order.to_vec_exact::<u32>()?.into_iter().map(|i| i as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mx.random.seed(123); mx.random.permutation(9)`
    #[test]
    fn orders_are_those_of_python() {
        assert_eq!(permutation(9, 123).unwrap(), [3, 1, 5, 8, 0, 7, 6, 4, 2]);
    }
}
