// Arrays over memory that Rust owns, on an MLX that only knows the CPU: its own way of wrapping memory copies it there.
// The Rust side is `raw.rs`; the declarations of both must agree.

#include "mlx/array.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/device.h"

namespace mx = mlx::core;

extern "C" {

// Whether `mlxlm_array_over` can be called: a GPU keeps its buffers in another form.
bool mlxlm_can_borrow() {
  return !mx::is_available(mx::Device::gpu);
}

// An array over `data`, before which lie eight readable bytes. `release(owner)` is called once, when nobody uses it any
// more.
mlx_array mlxlm_array_over(
    void* data,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype,
    void* owner,
    void (*release)(void*)) {
  // The CPU's buffers begin with their size, and hand out what lies behind it.
  mx::allocator::Buffer buffer(static_cast<char*>(data) - sizeof(size_t));
  return mlx_array_new_(mx::array(
      buffer,
      mx::Shape(shape, shape + ndim),
      mlx_dtype_to_cpp(dtype),
      [owner, release](mx::allocator::Buffer) { release(owner); }));
}
}
