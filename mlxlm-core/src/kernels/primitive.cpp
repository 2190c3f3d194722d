// The one C++ class behind all our operations: a primitive of MLX's graph that hands everything to Rust.
// The Rust side is `primitive.rs`; the declarations of both must agree.

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "mlx/backend/common/utils.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/c/private/stream.h"
#include "mlx/c/private/vector.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

extern "C" {

// One array in memory, as a kernel sees it. Strides count elements.
struct mlxlm_view {
  void* data;
  const int32_t* shape;
  const int64_t* strides;
  size_t ndim;
  int32_t dtype;
};

// Written in Rust. `op` is a boxed operation; `run` and `vjp` return 0, or say that they failed.
int mlxlm_op_run(const void* op, const mlxlm_view* inputs, size_t n_inputs, const mlxlm_view* outputs, size_t n_outputs);
int mlxlm_op_vjp(
    const void* op,
    mlx_vector_array primals,
    mlx_vector_array cotangents,
    mlx_vector_array outputs,
    const int* argnums,
    size_t n_argnums,
    mlx_vector_array gradients);
const char* mlxlm_op_name(const void* op);
bool mlxlm_op_equals(const void* op, const void* other);
void mlxlm_op_free(void* op);
}

namespace {

// An array's place in memory with copies of its shape and strides, which live as long as this.
struct Place {
  explicit Place(const mx::array& a)
      : data(const_cast<char*>(a.data<char>())),
        shape(a.shape()),
        strides(a.strides()),
        dtype(static_cast<int32_t>(a.dtype().val())) {}

  mlxlm_view view() const {
    return {data, shape.data(), strides.data(), shape.size(), dtype};
  }

  void* data;
  mx::Shape shape;
  mx::Strides strides;
  int32_t dtype;
};

std::vector<mlxlm_view> views(const std::vector<Place>& places) {
  std::vector<mlxlm_view> all;
  all.reserve(places.size());
  for (const auto& place : places) {
    all.push_back(place.view());
  }
  return all;
}

// A vector handle of the C interface over arrays that it owns.
struct Handles {
  explicit Handles(const std::vector<mx::array>& arrays) : handle(mlx_vector_array_new_(arrays)) {}
  ~Handles() {
    mlx_vector_array_free_(handle);
  }
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  mlx_vector_array handle;
};

// What of a stream is dispatched and not computed yet. Streams do not wait for each other here, since one may have to wait for
// another's results.
//
// MLX allocates an output when it dispatches the operation, which would have the activations of many layers in memory at once
// while a prompt is read; so dispatching waits for the work. And it lets the dispatching thread run after every ten steps of
// work, each time at the cost of a thread that computes; so that thread sleeps until there is more to do.
class Ahead {
 public:
  // Waits until there is room for an output of so many bytes; it counts until what is returned is gone.
  static std::shared_ptr<void> take(mx::Stream stream, size_t bytes) {
    auto& self = instance();
    std::unique_lock lock(self.mutex_);
    // References into the map stay good while it grows.
    auto& ahead = self.streams_[stream.index];
    if (ahead.operations >= MOST) {
      self.few_.wait(lock, [&] { return ahead.operations <= FEW; });
    }
    self.less_.wait(lock, [&] { return ahead.bytes == 0 || ahead.bytes + bytes <= LIMIT; });
    ahead.bytes += bytes;
    ahead.operations += 1;
    // What follows allocates; should that fail, it is given back at once.
    lock.unlock();
    return {&ahead, [bytes](Stream* ahead) {
              bool few = false;
              {
                std::lock_guard lock(instance().mutex_);
                ahead->bytes -= bytes;
                ahead->operations -= 1;
                few = ahead->operations == FEW;
              }
              instance().less_.notify_all();
              if (few) {
                instance().few_.notify_all();
              }
            }};
  }

 private:
  struct Stream {
    size_t bytes = 0;
    size_t operations = 0;
  };

  // A step of decoding is far below this; the largest outputs of a prompt go one by one.
  static constexpr size_t LIMIT = 8 << 20;
  // Operations after which the dispatching thread sleeps, fewer than MLX lets it have, and how many are left when it wakes: what
  // takes longer than waking up.
  static constexpr size_t MOST = 30;
  static constexpr size_t FEW = 12;

  // Never destroyed: a stream's thread may outlive what belongs to the program.
  static Ahead& instance() {
    static Ahead* instance = new Ahead();
    return *instance;
  }

  std::mutex mutex_;
  std::condition_variable less_;
  std::condition_variable few_;
  std::unordered_map<int, Stream> streams_;
};

class RustOp : public mx::Primitive {
 public:
  RustOp(mx::Stream stream, std::shared_ptr<void> op) : mx::Primitive(stream), op_(std::move(op)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    // MLX keeps an operation's outputs for those who wait for them.
    compute(inputs, outputs, false);
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string("`") + name() + "` runs on the CPU only");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<mx::array>& outputs) override {
    Handles p(primals), c(cotangents), o(outputs), gradients({});
    if (mlxlm_op_vjp(op_.get(), p.handle, c.handle, o.handle, argnums.data(), argnums.size(), gradients.handle) != 0) {
      throw std::runtime_error(std::string("`") + name() + "` has no gradient for this");
    }
    return mlx_vector_array_get_(gradients.handle);
  }

  const char* name() const override {
    return mlxlm_op_name(op_.get());
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return mlxlm_op_equals(op_.get(), static_cast<const RustOp&>(other).op_.get());
  }

 protected:
  // Has the outputs computed, which get memory if they have none yet; their memory is kept until that is done if need be.
  void compute(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs, bool keep) {
    size_t bytes = 0;
    for (const auto& array : outputs) {
      bytes += array.data_shared_ptr() ? 0 : array.nbytes();
    }
    // A task that is thrown away gives back what it took, too.
    auto room = Ahead::take(stream(), bytes);
    for (auto& array : outputs) {
      if (!array.data_shared_ptr()) {
        // Throws where there is no memory, see `allocator.cpp`.
        array.set_data(mx::allocator::malloc(array.nbytes()));
      }
    }
    std::vector<std::shared_ptr<mx::array::Data>> kept;
    for (size_t i = 0; keep && i < outputs.size(); i++) {
      kept.push_back(outputs[i].data_shared_ptr());
    }
    std::vector<Place> in(inputs.begin(), inputs.end());
    std::vector<Place> out(outputs.begin(), outputs.end());
    // The scheduler keeps the arrays alive until the task has run, and the task keeps the operation alive.
    mx::cpu::get_command_encoder(stream()).dispatch(
        [op = op_, room = std::move(room), in = std::move(in), out = std::move(out), kept = std::move(kept)] {
          auto from = views(in);
          auto to = views(out);
          if (mlxlm_op_run(op.get(), from.data(), from.size(), to.data(), to.size()) != 0) {
            throw std::runtime_error(std::string("the kernel of `") + mlxlm_op_name(op.get()) + "` failed");
          }
        });
  }

 private:
  std::shared_ptr<void> op_;
};

// Results of a `RewriteOp`, until a `Given` puts them into the graph.
using Results = std::vector<std::optional<mx::array>>;

// An operation each of whose results has the shape of one of the first inputs, and lies in its memory if nobody else has that.
//
// MLX knows that by the one reference that the operation's output has to its input; but of several outputs each refers to all
// inputs. So the operation itself has one output, without content, and what hands the results out follows behind it.
class RewriteOp : public RustOp {
 public:
  RewriteOp(mx::Stream stream, std::shared_ptr<void> op, std::shared_ptr<Results> results)
      : RustOp(stream, std::move(op)), results_(std::move(results)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<mx::array> results;
    results.reserve(results_->size());
    for (size_t i = 0; i < results_->size(); i++) {
      results.emplace_back(inputs[i].shape(), inputs[i].dtype(), nullptr, std::vector<mx::array>{});
      if (inputs[i].flags().row_contiguous && mx::is_donatable(inputs[i], results[i])) {
        results[i].copy_shared_buffer(inputs[i]);
      }
    }
    outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
    compute(inputs, results, true);
    for (size_t i = 0; i < results.size(); i++) {
      (*results_)[i] = std::move(results[i]);
    }
  }

  bool is_equivalent(const mx::Primitive&) const override {
    return false;
  }

 private:
  std::shared_ptr<Results> results_;
};

// Hands out some of the results of a `RewriteOp`.
class Given : public mx::Primitive {
 public:
  Given(mx::Stream stream, std::shared_ptr<Results> results, size_t first)
      : mx::Primitive(stream), results_(std::move(results)), first_(first) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>& outputs) override {
    for (size_t i = 0; i < outputs.size(); i++) {
      auto& result = (*results_)[first_ + i];
      outputs[i].copy_shared_buffer(result.value());
      // Who has the output next may write to it.
      result.reset();
    }
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("results of an operation of ours are on the CPU only");
  }

  const char* name() const override {
    return "Given";
  }

 private:
  std::shared_ptr<Results> results_;
  size_t first_;
};

// Results that one `Given` hands out. Each refers to all others of them, so the work grows with the square of this.
constexpr size_t TOGETHER = 8;

} // namespace

// Puts `op`, which is owned from here on, into the graph. Shapes lie one after the other in `shapes`.
extern "C" int mlxlm_apply(
    mlx_vector_array* results,
    void* op,
    const mlx_array* inputs,
    size_t n_inputs,
    const int32_t* shapes,
    const size_t* ndims,
    const mlx_dtype* dtypes,
    size_t n_outputs,
    mlx_stream stream) {
  try {
    auto primitive = std::make_shared<RustOp>(mlx_stream_get_(stream), std::shared_ptr<void>(op, mlxlm_op_free));
    std::vector<mx::array> in;
    in.reserve(n_inputs);
    for (size_t i = 0; i < n_inputs; i++) {
      in.push_back(mlx_array_get_(inputs[i]));
    }
    std::vector<mx::Shape> out_shapes;
    std::vector<mx::Dtype> out_dtypes;
    for (size_t i = 0; i < n_outputs; i++) {
      out_shapes.emplace_back(shapes, shapes + ndims[i]);
      shapes += ndims[i];
      out_dtypes.push_back(mlx_dtype_to_cpp(dtypes[i]));
    }
    mlx_vector_array_set_(*results, mx::array::make_arrays(std::move(out_shapes), out_dtypes, primitive, in));
    return 0;
  } catch (const std::exception& e) {
    mlx_error("%s", e.what());
  } catch (...) {
    mlx_error("an operation of ours could not be put into the graph");
  }
  return 1;
}

// As `mlxlm_apply`, of an operation whose results have the shapes and types of its first `n_outputs` inputs, and their memory where
// nobody else has that.
extern "C" int mlxlm_apply_over(
    mlx_vector_array* results,
    void* op,
    const mlx_array* inputs,
    size_t n_inputs,
    size_t n_outputs,
    mlx_stream stream) {
  try {
    std::shared_ptr<void> owned(op, mlxlm_op_free);
    auto on = mlx_stream_get_(stream);
    std::vector<mx::array> in;
    in.reserve(n_inputs);
    for (size_t i = 0; i < n_inputs; i++) {
      in.push_back(mlx_array_get_(inputs[i]));
    }
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (size_t i = 0; i < n_outputs; i++) {
      shapes.push_back(in.at(i).shape());
      dtypes.push_back(in.at(i).dtype());
    }
    auto given = std::make_shared<Results>(n_outputs);
    auto rewrite = std::make_shared<RewriteOp>(on, std::move(owned), given);
    mx::array done(mx::Shape{1}, mx::uint8, std::move(rewrite), std::move(in));
    std::vector<mx::array> out;
    for (size_t first = 0; first < n_outputs; first += TOGETHER) {
      auto last = std::min(first + TOGETHER, n_outputs);
      auto some = mx::array::make_arrays(
          {shapes.begin() + first, shapes.begin() + last},
          {dtypes.begin() + first, dtypes.begin() + last},
          std::make_shared<Given>(on, given, first),
          {done});
      out.insert(out.end(), some.begin(), some.end());
    }
    mlx_vector_array_set_(*results, std::move(out));
    return 0;
  } catch (const std::exception& e) {
    mlx_error("%s", e.what());
  } catch (...) {
    mlx_error("an operation of ours could not be put into the graph");
  }
  return 1;
}

// Whether any of some arrays is one that a gradient is taken through.
extern "C" bool mlxlm_is_traced(const mlx_array* arrays, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (arrays[i].ctx && mlx_array_get_(arrays[i]).is_tracer()) {
      return true;
    }
  }
  return false;
}

// Whether a stream's work is done by the CPU.
extern "C" bool mlxlm_stream_is_cpu(mlx_stream stream) {
  return stream.ctx && mlx_stream_get_(stream).device == mx::Device::cpu;
}
