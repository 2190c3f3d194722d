// Large buffers that were freed, kept for the next arrays of their size: the system clears each page that it gives, which is a sixth
// of a step of training. All buffers together, in use or kept, stay below the most that were in use at once, so the peak of arrays is
// what it was. (That of a process may be higher, if the peak of its other memory comes at another time.)

#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <new>
#include <vector>

#include "mlx/allocator.h"

namespace mlxlm {

class BufferCache {
 public:
  // Smaller buffers are the C library's to keep.
  static constexpr size_t LARGE = 1 << 20;

  // What is not kept is freed in `inner`.
  explicit BufferCache(mlx::core::allocator::Allocator& inner) : inner_(inner) {}

  // A buffer of at least so many bytes, kept or new; a null pointer where the system refuses it.
  void* take(size_t bytes) {
    std::lock_guard lock(mutex_);
    auto [size, buffer] = find(bytes);
    used_bytes_ += size;
    most_bytes_ = std::max(most_bytes_, used_bytes_);
    if (!buffer) {
      drop([this] { return used_bytes_ + kept_bytes_ > most_bytes_; });
      buffer = inner_.malloc(size).ptr();
    }
    if (!buffer) {
      drop([] { return true; });
      buffer = inner_.malloc(size).ptr();
    }
    if (!buffer) {
      used_bytes_ -= size;
    }
    return buffer;
  }

  // Keeps a buffer that nobody uses any more.
  void give(void* buffer, size_t bytes) {
    std::lock_guard lock(mutex_);
    used_bytes_ -= std::min(bytes, used_bytes_);
    try {
      kept_.push_back({bytes, buffer});
    } catch (const std::bad_alloc&) {
      return inner_.free(mlx::core::allocator::Buffer(buffer));
    }
    kept_bytes_ += bytes;
    drop([this] { return kept_bytes_ > limit_; });
  }

  // Sets how many bytes are kept at most.
  void limit(size_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
    drop([this] { return kept_bytes_ > limit_; });
  }

  // Frees all that is kept, and forgets the most that was in use.
  void reset() {
    std::lock_guard lock(mutex_);
    most_bytes_ = used_bytes_;
    drop([] { return true; });
  }

  size_t kept_bytes() {
    std::lock_guard lock(mutex_);
    return kept_bytes_;
  }

 private:
  struct Kept {
    size_t bytes;
    void* buffer;
  };

  // MLX writes a result over an operand only if the operand's buffer is larger by no more than this.
  static constexpr size_t SLACK = 16 << 10;

  // Takes out the smallest buffer that will do; of equal ones the last that was freed, which may still lie in the processor's caches.
  // Without one, a null pointer of the size that is wanted.
  Kept find(size_t bytes) {
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      bool fits = it->bytes >= bytes && it->bytes - bytes <= SLACK;
      if (fits && (best == kept_.end() || it->bytes <= best->bytes)) {
        best = it;
      }
    }
    if (best == kept_.end()) {
      return {bytes, nullptr};
    }
    Kept found = *best;
    kept_.erase(best);
    kept_bytes_ -= found.bytes;
    return found;
  }

  // Frees the oldest while there are too many.
  template <typename F>
  void drop(F too_many) {
    auto end = kept_.begin();
    for (; end != kept_.end() && too_many(); ++end) {
      inner_.free(mlx::core::allocator::Buffer(end->buffer));
      kept_bytes_ -= end->bytes;
    }
    kept_.erase(kept_.begin(), end);
  }

  mlx::core::allocator::Allocator& inner_;
  std::mutex mutex_;
  // From the one that was freed first to the one that was freed last.
  std::vector<Kept> kept_;
  size_t kept_bytes_ = 0;
  size_t used_bytes_ = 0;
  size_t most_bytes_ = 0;
  // Nothing until somebody asks for it: generation is not faster with kept buffers.
  size_t limit_ = 0;
};

} // namespace mlxlm
