// The kernels of mlp.c as operators of torch, so that a compiled update calls them without a detour through Python.
// Schemas and shapes are those of traced.py; arguments are as in kernels.py.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

using at::Tensor;
using Int = ptrdiff_t;

extern "C" int forward(Int networks, Int samples, Int layers, const Int *sizes, Int widest, int tanh, const float *rows,
                       Int row_stride, const float *inputs, Int network, Int sample, Int feature, float *hidden,
                       float *outputs);
extern "C" int backward(Int networks, Int samples, Int layers, const Int *sizes, Int widest, int tanh,
                        const float *rows, Int row_stride, const float *inputs, Int network, Int sample, Int feature,
                        const float *hidden, const float *outputs, Int network_out, Int sample_out, Int feature_out,
                        float *to_rows, float *to_inputs);

namespace {

struct Shape {
    std::vector<Int> sizes;
    Int widest = 0, length = 0, hidden = 0; // numbers in a row of parameters; width of all hidden layers together

    explicit Shape(at::IntArrayRef widths) : sizes(widths.begin(), widths.end()) {
        for (size_t l = 0; l < sizes.size(); l++) {
            widest = std::max(widest, sizes[l]);
            if (l) length += (sizes[l - 1] + 1) * sizes[l];
            if (l && l + 1 < sizes.size()) hidden += sizes[l];
        }
    }
    Int layers() const { return static_cast<Int>(sizes.size()) - 1; }
};

Tensor run_forward(const Tensor &rows, const Tensor &inputs, const Shape &shape, bool tanh, float *hidden) {
    const Int networks = inputs.size(0), samples = inputs.size(1);
    TORCH_CHECK_VALUE(rows.size(0) == networks && rows.size(1) == shape.length && inputs.size(2) == shape.sizes[0],
                      "rows ", rows.sizes(), " and inputs ", inputs.sizes(), " do not fit ", shape.sizes);
    Tensor outputs = at::empty({networks, samples, shape.sizes.back()}, inputs.options());
    const int failed = forward(networks, samples, shape.layers(), shape.sizes.data(), shape.widest, tanh,
                               rows.const_data_ptr<float>(), rows.stride(0), inputs.const_data_ptr<float>(),
                               inputs.stride(0), inputs.stride(1), inputs.stride(2), hidden,
                               outputs.mutable_data_ptr<float>());
    TORCH_CHECK(!failed, "no memory for the activations of an MLP");
    return outputs;
}

Tensor mlp(const Tensor &rows, const Tensor &inputs, at::IntArrayRef sizes, bool tanh) {
    return run_forward(rows, inputs, Shape(sizes), tanh, nullptr);
}

std::tuple<Tensor, Tensor> mlp_kept(const Tensor &rows, const Tensor &inputs, at::IntArrayRef sizes, bool tanh) {
    const Shape shape(sizes);
    Tensor hidden = at::empty({inputs.size(0), inputs.size(1) * shape.hidden}, inputs.options());
    Tensor outputs = run_forward(rows, inputs, shape, tanh, hidden.mutable_data_ptr<float>());
    return {outputs, hidden};
}

std::tuple<Tensor, Tensor> mlp_backward(const Tensor &gradient, const Tensor &rows, const Tensor &inputs,
                                        const Tensor &hidden, at::IntArrayRef sizes, bool tanh, bool to_rows,
                                        bool to_inputs) {
    const Shape shape(sizes);
    // An empty tensor stands for a gradient that is not asked for.
    Tensor row_gradient = to_rows ? at::empty({rows.size(0), shape.length}, rows.options())
                                  : at::empty({0}, rows.options());
    Tensor input_gradient = to_inputs ? at::empty(inputs.sizes(), inputs.options()) : at::empty({0}, inputs.options());
    const int failed = backward(
        inputs.size(0), inputs.size(1), shape.layers(), shape.sizes.data(), shape.widest, tanh,
        rows.const_data_ptr<float>(), rows.stride(0), inputs.const_data_ptr<float>(), inputs.stride(0),
        inputs.stride(1), inputs.stride(2), hidden.const_data_ptr<float>(), gradient.const_data_ptr<float>(),
        gradient.stride(0), gradient.stride(1), gradient.stride(2),
        to_rows ? row_gradient.mutable_data_ptr<float>() : nullptr,
        to_inputs ? input_gradient.mutable_data_ptr<float>() : nullptr);
    TORCH_CHECK(!failed, "no memory for the gradients of an MLP");
    return {row_gradient, input_gradient};
}

} // namespace

TORCH_LIBRARY_IMPL(policykd, CPU, library) {
    library.impl("mlp", &mlp);
    library.impl("mlp_kept", &mlp_kept);
    library.impl("mlp_backward", &mlp_backward);
}
