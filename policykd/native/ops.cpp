// The kernels of MLPs as operators of torch, so that a compiled update calls them without a detour through Python.
// Schemas and shapes are those of traced.py; arguments are as in kernels.py.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

extern "C" {
#include "mlp.h"
}

using at::Tensor;
using Int = ptrdiff_t;

namespace {

struct Shape {
    std::vector<Int> sizes;
    Network network{};

    Shape(at::IntArrayRef widths, std::string_view activation, bool norm) : sizes(widths.begin(), widths.end()) {
        for (size_t l = 0; l < sizes.size(); l++) {
            const bool hidden = l && l + 1 < sizes.size();
            network.widest = std::max(network.widest, sizes[l]);
            if (l) network.length += (sizes[l - 1] + (hidden && norm ? 3 : 1)) * sizes[l];
            if (hidden) network.kept += sizes[l] + (norm ? 1 : 0);
        }
        network.sizes = sizes.data();
        network.layers = static_cast<Int>(sizes.size()) - 1;
        network.activation = activation == "tanh" ? 1 : activation == "elu" ? 2 : 0;
        network.norm = norm;
    }
    Shape(const Shape &) = delete; // network points to sizes
};

Tensor run_forward(const Tensor &rows, const Tensor &inputs, const Shape &shape, float *hidden) {
    const Int networks = inputs.size(0), samples = inputs.size(1);
    TORCH_CHECK_VALUE(rows.size(0) == networks && rows.size(1) == shape.network.length &&
                          inputs.size(2) == shape.sizes[0],
                      "rows ", rows.sizes(), " and inputs ", inputs.sizes(), " do not fit ", shape.sizes);
    Tensor outputs = at::empty({networks, samples, shape.sizes.back()}, inputs.options());
    const int failed = forward(&shape.network, networks, samples, rows.const_data_ptr<float>(), rows.stride(0),
                               inputs.const_data_ptr<float>(), inputs.stride(0), inputs.stride(1), inputs.stride(2),
                               hidden, outputs.mutable_data_ptr<float>());
    TORCH_CHECK(!failed, "no memory for the activations of an MLP");
    return outputs;
}

Tensor mlp(const Tensor &rows, const Tensor &inputs, at::IntArrayRef sizes, c10::string_view activation, bool norm) {
    return run_forward(rows, inputs, Shape(sizes, {activation.data(), activation.size()}, norm), nullptr);
}

std::tuple<Tensor, Tensor> mlp_kept(const Tensor &rows, const Tensor &inputs, at::IntArrayRef sizes,
                                    c10::string_view activation, bool norm, int64_t kept) {
    const Shape shape(sizes, {activation.data(), activation.size()}, norm);
    TORCH_CHECK_VALUE(kept == shape.network.kept, "kept ", kept, " numbers, not ", shape.network.kept);
    Tensor hidden = at::empty({inputs.size(0), inputs.size(1) * shape.network.kept}, inputs.options());
    Tensor outputs = run_forward(rows, inputs, shape, hidden.mutable_data_ptr<float>());
    return {outputs, hidden};
}

std::tuple<Tensor, Tensor> mlp_backward(const Tensor &gradient, const Tensor &rows, const Tensor &inputs,
                                        const Tensor &hidden, at::IntArrayRef sizes, c10::string_view activation,
                                        bool norm, bool to_rows, bool to_inputs) {
    const Shape shape(sizes, {activation.data(), activation.size()}, norm);
    // An empty tensor stands for a gradient that is not asked for.
    Tensor row_gradient = to_rows ? at::empty({rows.size(0), shape.network.length}, rows.options())
                                  : at::empty({0}, rows.options());
    Tensor input_gradient = to_inputs ? at::empty(inputs.sizes(), inputs.options()) : at::empty({0}, inputs.options());
    const int failed = backward(
        &shape.network, inputs.size(0), inputs.size(1), rows.const_data_ptr<float>(), rows.stride(0),
        inputs.const_data_ptr<float>(), inputs.stride(0), inputs.stride(1), inputs.stride(2),
        hidden.const_data_ptr<float>(), gradient.const_data_ptr<float>(), gradient.stride(0), gradient.stride(1),
        gradient.stride(2), to_rows ? row_gradient.mutable_data_ptr<float>() : nullptr,
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
