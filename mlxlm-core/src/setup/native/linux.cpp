// What mlx-rs expects of mlx-c and of the system that mlx-c on Linux does not have; see src/setup/mlxc.rs.
#include <ctime>
#include <cstdint>
#include <cstring>

#include "mlx/c/error.h"
#include "mlx/c/private/array.h"
#include "mlx/mlx.h"

// macOS's clock; mlx-rs seeds its default random state with it.
extern "C" uint64_t mach_approximate_time() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000u + uint64_t(now.tv_nsec);
}

// mlx-c declares the 16-bit accessors on Arm only. Here the values travel as their bits.
#if defined(__x86_64__)
namespace {
template <typename T>
int item_bits(uint16_t* out, const mlx_array array) {
  static_assert(sizeof(T) == sizeof(uint16_t));
  try {
    const T value = mlx_array_get_(array).item<T>();
    std::memcpy(out, &value, sizeof(value));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

template <typename T>
const uint16_t* data_bits(const mlx_array array) {
  try {
    return reinterpret_cast<const uint16_t*>(mlx_array_get_(array).data<T>());
  } catch (std::exception& e) {
    mlx_error(e.what());
    return nullptr;
  }
}
}  // namespace

extern "C" int mlx_array_item_float16(uint16_t* out, const mlx_array array) {
  return item_bits<mlx::core::float16_t>(out, array);
}
extern "C" int mlx_array_item_bfloat16(uint16_t* out, const mlx_array array) {
  return item_bits<mlx::core::bfloat16_t>(out, array);
}
extern "C" const uint16_t* mlx_array_data_float16(const mlx_array array) {
  return data_bits<mlx::core::float16_t>(array);
}
extern "C" const uint16_t* mlx_array_data_bfloat16(const mlx_array array) {
  return data_bits<mlx::core::bfloat16_t>(array);
}
#endif
