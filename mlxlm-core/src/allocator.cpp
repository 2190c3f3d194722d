// MLX's allocator on a Linux CPU, made safe and quick. Its own has three faults: memory that the system refuses is a null pointer
// that the operations of MLX write to, it is destroyed by `exit` while the threads of the streams go on using it, and each large
// array is of new pages (see `buffer_cache.h`).
//
// libmlx calls `mlx::core::allocator::allocator()` through its procedure linkage table, and a program that defines the same
// symbol comes first; so every allocation of MLX comes here, as its matrix products come to our `cblas_sgemm`.
// The Rust side is `raw.rs`.

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>

#include "buffer_cache.h"
#include "mlx/allocator.h"
#include "mlx/device.h"
#include "mlx/scheduler.h"
#include "mlx/stream.h"

namespace mx = mlx::core;

namespace {

// Whether `exit` has begun: then the allocator of libmlx is or will be destroyed.
std::atomic<bool> leaving = false;

// Memory that the system refuses. It allocates nothing itself.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(size_t bytes) {
    std::snprintf(text_, sizeof(text_), "there is no memory for an array of %zu bytes", bytes);
  }
  const char* what() const noexcept override {
    return text_;
  }

 private:
  char text_[80];
};

// Holds addresses back while an array is allocated, so that no large array takes the last of them: the C library ends a process in
// which it cannot have a few bytes for itself, as where a thread begins to use a variable of its own. No page is ever touched.
class Reserve {
 public:
  explicit Reserve(size_t bytes) {
    if (bytes >= LARGE) {
      held_ = mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (held_ == MAP_FAILED) {
        throw NoMemory(bytes);
      }
    }
  }
  ~Reserve() {
    if (held_) {
      munmap(held_, SIZE);
    }
  }
  Reserve(const Reserve&) = delete;
  Reserve& operator=(const Reserve&) = delete;

 private:
  static constexpr size_t LARGE = 64 << 10;
  static constexpr size_t SIZE = 1 << 20;
  void* held_ = nullptr;
};

class Checked : public mx::allocator::Allocator {
 public:
  explicit Checked(mx::allocator::Allocator& inner) : inner_(inner), cache_(inner) {}

  mx::allocator::Buffer malloc(size_t bytes) override {
    // A size that is a negative number, or close to the end of addresses, would wrap around where its header is added.
    if (bytes > static_cast<size_t>(std::numeric_limits<ptrdiff_t>::max()) / 2) {
      throw NoMemory(bytes);
    }
    Reserve reserve(bytes);
    auto buffer = leaving ? last(bytes) : is_large(bytes) ? mx::allocator::Buffer(cache_.take(bytes)) : inner_.malloc(bytes);
    if (!buffer.ptr() && bytes > 0) {
      throw NoMemory(bytes);
    }
    return buffer;
  }

  void free(mx::allocator::Buffer buffer) override {
    // What is freed while the process ends is the system's to take back.
    if (leaving || !buffer.ptr()) {
      return;
    }
    if (auto bytes = size(buffer); is_large(bytes)) {
      cache_.give(buffer.ptr(), bytes);
    } else {
      inner_.free(buffer);
    }
  }

  mlxlm::BufferCache& cache() {
    return cache_;
  }

  // MLX asks before it writes a result where an operand lay, so that a small array does not hold on to a large buffer. Memory of
  // ours (`raw.cpp`) has no size in front of it but bytes of the file; there it may write in any case, as into the pages of caches that
  // were mapped. It begins a size before an aligned place, where no memory of the C library begins.
  size_t size(mx::allocator::Buffer buffer) const override {
    constexpr uintptr_t ALIGNED = 16;
    bool borrowed = reinterpret_cast<uintptr_t>(buffer.ptr()) % ALIGNED == sizeof(size_t);
    return borrowed ? 0 : inner_.size(buffer);
  }

  mx::allocator::Buffer make_buffer(void* data, size_t bytes) override {
    return inner_.make_buffer(data, bytes);
  }

  void release(mx::allocator::Buffer buffer) override {
    inner_.release(buffer);
  }

 private:
  // Whether a buffer is the cache's; the allocators of GPUs keep buffers themselves.
  bool is_large(size_t bytes) const {
    return is_cpu_ && bytes >= mlxlm::BufferCache::LARGE;
  }

  // Memory for a thread that goes on while the process ends: the CPU's buffers begin with their size.
  static mx::allocator::Buffer last(size_t bytes) {
    auto* header = static_cast<size_t*>(std::malloc(bytes + sizeof(size_t)));
    if (header) {
      *header = bytes;
    }
    return mx::allocator::Buffer(header);
  }

  mx::allocator::Allocator& inner_;
  mlxlm::BufferCache cache_;
  bool is_cpu_ = !mx::is_available(mx::Device::gpu);
};

// Waits for the work of all CPU streams, then leaves the allocator of libmlx alone. Errors of work that nobody reads are nobody's.
void leave(pid_t process) {
  // A forked process has none of the threads that it would wait for.
  if (getpid() == process) {
    try {
      for (const auto& stream : mx::get_streams()) {
        if (stream.device == mx::Device::cpu) {
          try {
            mx::synchronize(stream);
          } catch (...) {
          }
        }
      }
    } catch (...) {
    }
  }
  leaving = true;
}

pid_t started_by = 0;

Checked& make() {
  using Make = mx::allocator::Allocator& (*)();
  auto original = reinterpret_cast<Make>(dlsym(RTLD_NEXT, "_ZN3mlx4core9allocator9allocatorEv"));
  if (!original) {
    throw std::runtime_error("the allocator of MLX is not where it was: run `cargo xtask setup` again");
  }
  auto& inner = original();
  // What is registered last runs first: before the destructor that the call above has registered.
  started_by = getpid();
  std::atexit([] { leave(started_by); });
  // Never destroyed.
  return *new Checked(inner);
}

Checked& checked() {
  static Checked& checked = make();
  return checked;
}

} // namespace

mx::allocator::Allocator& mx::allocator::allocator() {
  return checked();
}

extern "C" {

// Has MLX allocate here from now on. Nothing else that Rust calls would make the linker take this file in.
void mlxlm_check_allocator() {
  try {
    mx::allocator::allocator();
  } catch (...) {
    // The first allocation says what is wrong.
  }
}

// Bytes of buffers that are kept.
size_t mlxlm_kept_bytes() {
  try {
    return checked().cache().kept_bytes();
  } catch (...) {
    return 0;
  }
}

// Sets how many bytes are kept at most.
void mlxlm_keep_at_most(size_t bytes) {
  try {
    checked().cache().limit(bytes);
  } catch (...) {
    // Without an allocator nothing is kept.
  }
}

// Frees all that is kept, and counts from here how much is in use at most.
void mlxlm_keep_nothing() {
  try {
    checked().cache().reset();
  } catch (...) {
    // Without an allocator nothing is kept.
  }
}
}
