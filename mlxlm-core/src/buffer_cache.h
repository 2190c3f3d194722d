// Large buffers that were freed, kept for the next arrays of their size: the system clears each page that it gives, which is a sixth
// of a step of training. What is kept never makes a process larger than it was, since all buffers together, in use or
// kept, stay below the most that were in use at once.

#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <vector>

namespace mlxlm {

class BufferCache {
 public:
  // Smaller buffers are the C library's to keep.
  static constexpr size_t LARGE = 1 << 20;

  // A kept buffer for so many bytes, which is in use from now on; a null pointer if there is none.
  void* take(size_t bytes) {
    std::lock_guard lock(mutex_);
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      // Of equal ones the last that was freed, which may still lie in the caches of the processor.
      if (it->bytes >= bytes && it->bytes - bytes <= SLACK && (best == kept_.end() || it->bytes <= best->bytes)) {
        best = it;
      }
    }
    if (best == kept_.end()) {
      return nullptr;
    }
    auto found = *best;
    kept_.erase(best);
    kept_bytes_ -= found.bytes;
    use(found.bytes);
    return found.buffer;
  }

  // Counts a buffer that is about to be allocated; returns those that have to be freed before.
  std::vector<void*> before(size_t bytes) {
    std::lock_guard lock(mutex_);
    use(bytes);
    return drop([this] { return used_bytes_ + kept_bytes_ > most_bytes_; });
  }

  // Takes back the count of a buffer that was refused; returns all that are kept, which may make room for it.
  std::vector<void*> refused(size_t bytes) {
    std::lock_guard lock(mutex_);
    used_bytes_ -= std::min(bytes, used_bytes_);
    return drop([] { return true; });
  }

  // Keeps a buffer that nobody uses any more; returns those that have to be freed.
  std::vector<void*> keep(void* buffer, size_t bytes) {
    std::lock_guard lock(mutex_);
    used_bytes_ -= std::min(bytes, used_bytes_);
    kept_.push_back({bytes, buffer});
    kept_bytes_ += bytes;
    return drop([this] { return kept_bytes_ > limit_; });
  }

  // Sets how many bytes are kept at most; returns the buffers that have to be freed.
  std::vector<void*> limit(size_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
    return drop([this] { return kept_bytes_ > limit_; });
  }

  // Forgets the most that were in use; returns all that are kept.
  std::vector<void*> reset() {
    std::lock_guard lock(mutex_);
    most_bytes_ = used_bytes_;
    return drop([] { return true; });
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

  void use(size_t bytes) {
    used_bytes_ += bytes;
    most_bytes_ = std::max(most_bytes_, used_bytes_);
  }

  // Takes the oldest out while there are too many.
  template <typename F>
  std::vector<void*> drop(F too_many) {
    std::vector<void*> dropped;
    auto end = kept_.begin();
    for (; end != kept_.end() && too_many(); ++end) {
      dropped.push_back(end->buffer);
      kept_bytes_ -= end->bytes;
    }
    kept_.erase(kept_.begin(), end);
    return dropped;
  }

  std::mutex mutex_;
  // From the one that was freed first to the one that was freed last.
  std::vector<Kept> kept_;
  size_t kept_bytes_ = 0;
  size_t used_bytes_ = 0;
  size_t most_bytes_ = 0;
  size_t limit_ = 512 << 20;
};

} // namespace mlxlm
