#include "problem.hpp"

namespace selftest {

void Tensor::allocate(uint32_t type, Layout layout, int64_t batch, int64_t length, int64_t channels) {
    dtype = type;
    operand.dtype = type;
    operand.channel_stride = 1;
    operand.time_stride = channels;
    operand.batch_stride = length * channels;
    int64_t elements = batch * length * channels;
    switch (layout) {
        case Layout::kContiguous: break;
        case Layout::kOffset:  // one element off alignment
            first = 1;
            elements += 1;
            break;
        case Layout::kSliced:  // the middle third of rows three times as wide
            operand.time_stride = 3 * channels;
            operand.batch_stride = 3 * length * channels;
            first = channels;
            elements *= 3;
            break;
        case Layout::kTimeMajor:
            operand.time_stride = batch * channels;
            operand.batch_stride = channels;
            break;
        case Layout::kRepeatedBatch:
            operand.batch_stride = 0;
            elements = length * channels;
            break;
        case Layout::kRepeatedTime:
            operand.time_stride = 0;
            operand.batch_stride = channels;
            elements = batch * channels;
            break;
        case Layout::kRepeatedChannel:
            operand.channel_stride = 0;
            operand.time_stride = 1;
            operand.batch_stride = length;
            elements = batch * length;
            break;
    }
    buffer = Buffer(static_cast<size_t>(elements) * type_bytes(type));
    operand.data = buffer.data() + first * static_cast<int64_t>(type_bytes(type));
}

std::string Problem::describe() const {
    std::string text = std::string(kTypeNames[dtype]) + " [" + std::to_string(batch) + ", " + std::to_string(length) +
                       ", " + std::to_string(channels) + "] layout " + std::to_string(static_cast<int>(layout));
    if (reverse) text += " reverse";
    if (!with_c) text += " states";
    if (with_initial) text += " h0";
    if (with_grad_last) text += " grad_last";
    if (!with_grad_y) text += " no grad_y";
    if (y_dtype != dtype) text += std::string(" y ") + kTypeNames[y_dtype];
    if (packed()) text += " packed " + std::to_string(offsets.size() - 1);
    return text;
}

Operands::Operands(const Problem& p) {
    std::mt19937 random(p.seed);
    std::uniform_real_distribution<double> gate(p.gate_low, p.gate_high);
    std::normal_distribution<double> normal;
    const auto fill = [&](Tensor& tensor, uint32_t dtype, Layout layout, bool gates) {
        tensor.allocate(dtype, layout, p.batch, p.length, p.channels);
        for (int64_t i = 0; i < p.batch; ++i) {
            for (int64_t t = 0; t < p.length; ++t) {
                for (int64_t d = 0; d < p.channels; ++d) {
                    const Operand& o = tensor.operand;
                    const int64_t index = tensor.first + i * o.batch_stride + t * o.time_stride + d * o.channel_stride;
                    tensor.buffer.set(dtype, index, gates ? gate(random) : normal(random));
                }
            }
        }
    };
    fill(x, p.dtype, p.layout, false);
    fill(a, p.dtype, p.layout, true);
    fill(b, p.dtype, p.layout, false);
    fill(c, p.dtype, p.layout, false);
    fill(grad_y, p.y_dtype, p.layout, false);
    const auto fill_states = [&](Buffer& buffer) {
        const uint32_t acc = acc_type(p.dtype);
        buffer = Buffer(static_cast<size_t>(p.rows() * p.channels) * type_bytes(acc));
        for (int64_t i = 0; i < p.rows() * p.channels; ++i) buffer.set(acc, i, normal(random));
    };
    fill_states(initial);
    fill_states(grad_last);
    offsets = Buffer(p.offsets.size() * sizeof(int64_t));
    if (p.packed()) memcpy(offsets.data(), p.offsets.data(), offsets.size());
}

Reference::Reference(const Problem& p, const Operands& in) {
    const size_t elements = static_cast<size_t>(p.batch * p.length * p.channels);
    const size_t states = static_cast<size_t>(p.rows() * p.channels);
    for (auto* tensor : {&y, &dx, &da, &db, &dc}) tensor->assign(elements, 0.0);
    for (auto* tensor : {&last, &dh0}) tensor->assign(states, 0.0);
    const uint32_t acc = acc_type(p.dtype);
    std::vector<double> entering;
    for (int64_t row = 0; row < p.rows(); ++row) {
        const int64_t batch = p.packed() ? 0 : row;
        const int64_t begin = p.packed() ? p.offsets[row] : 0, end = p.packed() ? p.offsets[row + 1] : p.length;
        const int64_t steps = end - begin;
        for (int64_t d = 0; d < p.channels; ++d) {
            const int64_t state = row * p.channels + d;
            double h = p.with_initial ? in.initial.get(acc, state) : 0;
            entering.assign(static_cast<size_t>(steps), 0);
            const auto time = [&](int64_t s) { return p.reverse ? end - 1 - s : begin + s; };
            const auto index = [&](int64_t t) { return static_cast<size_t>((batch * p.length + t) * p.channels + d); };
            const auto c_at = [&](int64_t t) { return p.with_c ? in.c.at(batch, t, d) : 1.0; };
            const auto g_at = [&](int64_t t) { return p.with_grad_y ? in.grad_y.at(batch, t, d) : 0.0; };
            for (int64_t s = 0; s < steps; ++s) {
                const int64_t t = time(s);
                entering[s] = h;
                h = in.a.at(batch, t, d) * h + in.b.at(batch, t, d) * in.x.at(batch, t, d);
                y[index(t)] = c_at(t) * h;
                dc[index(t)] = g_at(t) * h;
            }
            last[state] = h;
            double z = p.with_grad_last ? in.grad_last.get(acc, state) : 0;
            for (int64_t s = steps - 1; s >= 0; --s) {
                const int64_t t = time(s);
                const double dh = c_at(t) * g_at(t) + z;
                da[index(t)] = dh * entering[s];
                db[index(t)] = dh * in.x.at(batch, t, d);
                dx[index(t)] = dh * in.b.at(batch, t, d);
                z = in.a.at(batch, t, d) * dh;
            }
            dh0[state] = z;
        }
    }
}

}  // namespace selftest
