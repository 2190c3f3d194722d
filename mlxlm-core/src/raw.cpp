// Arrays over memory that Rust owns, on an MLX that only knows the CPU: its own way of wrapping memory copies it there.
// The Rust side is `raw.rs`; the declarations of both must agree. No exception leaves this file.

#include <memory>
#include <utility>

#include "mlx/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/device.h"

namespace mx = mlx::core;

extern "C" {

// Whether `mlxlm_array_over` can be called: a GPU keeps its buffers in another form.
bool mlxlm_can_borrow() {
  try {
    return !mx::is_available(mx::Device::gpu);
  } catch (...) {
    return false;
  }
}

// Makes `result` an array over `data`, before which lie eight readable bytes, and returns 0, or says that it failed. In either case
// `release(owner)` is called once: when nobody uses the array any more, or because there is none.
int mlxlm_array_over(
    mlx_array* result,
    void* data,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype,
    void* owner,
    void (*release)(void*)) {
  try {
    // Should there be no memory for this pointer's own record, it releases what it was given.
    std::shared_ptr<void> loan(owner, release);
    // The CPU's buffers begin with their size, and hand out what lies behind it.
    mx::allocator::Buffer buffer(static_cast<char*>(data) - sizeof(size_t));
    *result = mlx_array_new_(mx::array(
        buffer,
        mx::Shape(shape, shape + ndim),
        mlx_dtype_to_cpp(dtype),
        [loan = std::move(loan)](mx::allocator::Buffer) mutable { loan.reset(); }));
    return 0;
  } catch (const std::exception& e) {
    mlx_error("%s", e.what());
  } catch (...) {
    mlx_error("an array over memory of ours could not be made");
  }
  return 1;
}
}
