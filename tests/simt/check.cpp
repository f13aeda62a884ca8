#include "check.hpp"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <iterator>

namespace selftest {

namespace {

bool same_bits(const Results& one, const Results& other) {
    const auto same = [](const Buffer& a, const Buffer& b) {
        return a.size() == b.size() && memcmp(a.data(), b.data(), a.size()) == 0;
    };
    return same(one.y, other.y) && same(one.last, other.last) && same(one.saved, other.saved) &&
           same(one.dx, other.dx) && same(one.da, other.da) && same(one.db, other.db) && same(one.dc, other.dc) &&
           same(one.dh0, other.dh0);
}

std::string entries(Variant variant, const char* direction, uint32_t dtype) {
    return std::string("quick_ssm_") + direction + "_" + kTypeNames[dtype] + (variant.narrow ? "_narrow" : "");
}

const Schedule kSchedules[] = {{1, 4, 4}, {2, 1, 1}, {3, 64, 2}, {4, 7, 7}, {5, 64, 8}, {6, 3, 3}};

}  // namespace

bool Checker::launch(const Problem& p, const Request& request, const Schedule& schedule, const char* direction,
                     Params params) {
    const std::string name = entries(request.variant, direction, p.dtype) + (request.vector ? "_vector" : "_element") + (p.packed() ? "_packed" : "");
    quick_ssm_simt_kernel kernel;
    if (!machine_.describe(request.variant, name, kernel)) {
        error_ = "no kernel " + name;
        return false;
    }
    if (kernel.params_bytes != sizeof(Params)) {
        error_ = "the parameters have another size";
        return false;
    }
    params.chunks = static_cast<uint32_t>((p.length + kernel.length - 1) / kernel.length);
    params.channel_tiles = static_cast<uint32_t>((p.channels + kernel.channels - 1) / kernel.channels);
    params.by_columns = divisor(params.batch * params.channel_tiles);
    params.by_channel_tiles = divisor(params.channel_tiles);
    LookBackPlan& plan = params.look_back;
    plan = default_radix(params.channel_tiles);
    if (request.tree.groups) plan.shift[1] = request.tree.groups, plan.shift[2] = request.tree.states;
    const uint32_t rows = place_rows(plan, params.chunks);
    params.workspace = machine_.workspace(workspace_bytes(rows, params.batch, params.channel_tiles, kernel.channels,
                                                          static_cast<uint32_t>(type_bytes(acc_type(p.dtype)))));
    const char* error = params.workspace ? machine_.launch(request.variant, name, kernel, params, schedule)
                                         : "the workspace is too large";
    if (error) error_ = error;
    return !error;
}

bool Checker::run(const Problem& p, const Operands& in, const Request& request, const Schedule& schedule,
                  Results& out) {
    const uint32_t acc = acc_type(p.dtype);
    const size_t elements = static_cast<size_t>(p.batch * p.length * p.channels);
    const size_t states = static_cast<size_t>(p.rows() * p.channels) * type_bytes(acc);
    quick_ssm_simt_kernel backward;
    machine_.describe(request.variant, entries(request.variant, "backward", p.dtype) + "_vector", backward);

    const auto operand = [&](const Tensor& tensor) {
        Operand placed = tensor.operand;
        // in the order in which time runs
        const int64_t first = tensor.first + (p.reverse ? (p.length - 1) * placed.time_stride : 0);
        if (p.reverse) placed.time_stride = -placed.time_stride;
        placed.data = static_cast<char*>(machine_.place(tensor.buffer)) +
                      first * static_cast<int64_t>(type_bytes(tensor.dtype));
        return placed;
    };
    const auto wanted = [&](Buffer& buffer, bool want, size_t bytes) -> void* {
        buffer = Buffer(want ? bytes : 0);
        return want ? machine_.place(buffer) : nullptr;
    };
    Params params = {};
    params.x = operand(in.x), params.a = operand(in.a), params.b = operand(in.b);
    if (p.with_c) params.c = operand(in.c);
    params.grad_y.dtype = p.y_dtype;
    if (p.with_grad_y) params.grad_y = operand(in.grad_y);
    params.initial_state = p.with_initial ? machine_.place(in.initial) : nullptr;
    params.grad_last_state = p.with_grad_last ? machine_.place(in.grad_last) : nullptr;
    params.offsets = p.packed() ? static_cast<const int64_t*>(machine_.place(in.offsets)) : nullptr;
    params.length = p.length;
    params.batch = static_cast<uint32_t>(p.batch);
    params.channels = static_cast<uint32_t>(p.channels);
    params.sequences = p.packed() ? static_cast<uint32_t>(p.rows()) : 0;
    params.y_dtype = p.y_dtype;
    params.gradient_stride = p.channels;
    params.reverse = p.reverse;
    while ((1u << params.saved_shift) < backward.length) ++params.saved_shift;

    const int64_t saved_rows = (p.length + backward.length - 1) / backward.length;
    params.y = wanted(out.y, request.y, elements * type_bytes(p.y_dtype));
    params.last_state = wanted(out.last, request.last, states);
    params.saved_states =
        wanted(out.saved, true, static_cast<size_t>(p.batch * saved_rows * p.channels) * type_bytes(acc));
    if (!launch(p, request, schedule, "forward", params)) return false;

    params.y = params.last_state = nullptr;
    params.dx = wanted(out.dx, request.dx, elements * type_bytes(p.dtype));
    params.da = wanted(out.da, request.da, elements * type_bytes(p.dtype));
    params.db = wanted(out.db, request.db, elements * type_bytes(p.dtype));
    params.dc = wanted(out.dc, request.dc, elements * type_bytes(p.dtype));
    params.dh0 = wanted(out.dh0, request.dh0, states);
    if (!launch(p, request, schedule, "backward", params)) return false;
    machine_.collect();
    return true;
}

// `dtype` is that of the buffer, `computed` that of the arithmetic.
bool Checker::close(const char* name, const Buffer& buffer, uint32_t dtype, uint32_t computed,
                    const std::vector<double>& expected) {
    if (!buffer.intact()) {
        error_ = std::string(name) + ": written out of bounds";
        return false;
    }
    if (buffer.size() == 0) return true;
    double error = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        const double difference = buffer.get(dtype, static_cast<int64_t>(i)) - expected[i];
        error += difference * difference;
        norm += expected[i] * expected[i];
    }
    const double relative = norm > 0 ? sqrt(error / norm) : sqrt(error);
    // f32: hundreds of gates are multiplied, each with a rounding
    const double limits[] = {2e-6, 1e-3, 6e-3, 1e-13};
    if (relative <= std::max(limits[dtype], limits[computed])) return true;
    char digits[32];
    snprintf(digits, sizeof digits, "%.3g", relative);
    error_ = std::string(name) + ": relative error " + digits;
    return false;
}

bool Checker::correct(const Problem& p, const Reference& reference, const Results& out) {
    const uint32_t acc = acc_type(p.dtype);
    const auto good = [&](const char* name, const Buffer& buffer, uint32_t dtype,
                          const std::vector<double>& expected) {
        return close(name, buffer, dtype, acc, expected);
    };
    return good("y", out.y, p.y_dtype, reference.y) && good("last", out.last, acc, reference.last) &&
           good("dx", out.dx, p.dtype, reference.dx) && good("da", out.da, p.dtype, reference.da) &&
           good("db", out.db, p.dtype, reference.db) && good("dc", out.dc, p.dtype, reference.dc) &&
           good("dh0", out.dh0, acc, reference.dh0) && good("saved", out.saved, acc, {});
}

// The problem under several interleavings, with vector and element access where both fit.
bool Checker::check(const Problem& p, Request request, bool vector_fits) {
    const Operands operands(p);
    const Reference reference(p, operands);
    std::unique_ptr<Results> first;
    for (int vector = vector_fits ? 1 : 0; vector >= 0; --vector) {
        request.vector = vector == 1;
        for (size_t i = 0; i < schedules_; ++i) {
            Schedule schedule = kSchedules[i % std::size(kSchedules)];
            schedule.seed += 1000 * i + p.seed;
            auto out = std::make_unique<Results>();
            if (!run(p, operands, request, schedule, *out) || !correct(p, reference, *out)) return false;
            if (!first) first = std::move(out);
            else if (!same_bits(*first, *out)) {
                error_ = "bits differ between schedules";
                return false;
            }
        }
    }
    return true;
}

void Checker::record(bool good, const std::string& what) {
    ++cases_;
    if (good) return;
    ++failures_;
    printf("FAILED %s: %s\n", what.c_str(), error_.c_str());
}

void Checker::expect(const Problem& p, const Request& request, bool vector_fits) {
    record(check(p, request, vector_fits), request.variant.describe() + " " + p.describe());
}

void Checker::report(const char* section) const {
    printf("%s: %d cases, %d failures\n", section, cases_, failures_);
    fflush(stdout);
}

uint32_t Checker::access_width(Variant variant, uint32_t dtype) {
    quick_ssm_simt_kernel forward, backward;
    machine_.describe(variant, entries(variant, "forward", dtype) + "_vector", forward);
    machine_.describe(variant, entries(variant, "backward", dtype) + "_vector", backward);
    return std::max(forward.access, backward.access);
}

void Checker::sizes(Variant variant) {
    const bool tiny = variant.tiny();
    const std::vector<int64_t> lengths = tiny ? std::vector<int64_t>{1, 2, 3, 8, 9, 17, 64, 100, 151}
                                              : std::vector<int64_t>{1, 33, 130, 700};
    const std::vector<int64_t> widths = tiny ? std::vector<int64_t>{1, 3, 4, 8, 10} : std::vector<int64_t>{8, 17, 72};
    const Tree trees[] = {{}, {1, 2}, {1, 4}, {2, 3}, {3, 4}};
    uint32_t seed = 1;
    for (uint32_t dtype = 0; dtype < 4; ++dtype) {
        for (const int64_t length : lengths) {
            for (const int64_t channels : widths) {
                Problem p;
                p.dtype = p.y_dtype = dtype;
                p.length = length, p.channels = channels, p.batch = tiny ? 1 + seed % 3 : 1, p.seed = seed;
                p.reverse = seed % 2, p.with_initial = seed / 2 % 2, p.with_grad_last = seed / 4 % 2;
                Request request;
                request.variant = variant;
                request.tree = trees[seed % std::size(trees)];
                expect(p, request, channels % access_width(variant, dtype) == 0);
                ++seed;
            }
        }
    }
}

void Checker::options(Variant variant) {
    // Problems grow with the tiles. The widths suit vector access in every type, but for `odd`.
    const int64_t width = variant.tiny() ? 8 : 72, odd = variant.tiny() ? 6 : 70, scale = variant.tiny() ? 1 : 8;
    uint32_t seed = 100;
    for (uint32_t dtype = 0; dtype < 4; ++dtype) {
        const auto problem = [&](int64_t batch, int64_t length, int64_t channels) {
            Problem p;
            p.dtype = p.y_dtype = dtype;
            p.batch = batch, p.length = length * scale, p.channels = channels, p.seed = ++seed;
            return p;
        };
        Request request;
        request.variant = variant;
        for (int layout = 0; layout <= static_cast<int>(Layout::kOffset); ++layout) {
            Problem p = problem(2, 37, width);
            p.reverse = seed % 2, p.layout = static_cast<Layout>(layout);
            expect(p, request, p.layout != Layout::kOffset && p.layout != Layout::kRepeatedChannel);
        }
        for (uint32_t y_dtype = 0; y_dtype < 8; ++y_dtype) {
            Problem p = problem(2, 41, y_dtype < 4 ? width : odd);
            p.y_dtype = y_dtype % 4;
            p.with_c = y_dtype % 2, p.with_grad_y = seed % 5 != 0, p.with_grad_last = !p.with_grad_y;
            expect(p, request, p.channels % access_width(variant, dtype) == 0);
        }
        // Gates beyond one, and of either sign.
        Problem wild = problem(1, 60, width);
        wild.gate_low = -1.2, wild.gate_high = 1.2, wild.length = 60;
        expect(wild, request, true);
        for (uint32_t wanted = 0; wanted < 128; wanted += variant.tiny() && dtype == kF32 ? 1 : 13) {
            Problem p = problem(2, 29, width);
            p.with_initial = true, p.with_grad_last = wanted % 3 == 0;
            request.y = wanted & 1, request.last = wanted & 2, request.dx = wanted & 4, request.da = wanted & 8;
            request.db = wanted & 16, request.dc = wanted & 32, request.dh0 = wanted & 64;
            expect(p, request, true);
        }
    }
}

void Checker::packed(Variant variant) {
    std::mt19937 random(7);
    uint32_t seed = 500;
    for (uint32_t dtype = 0; dtype < 4; ++dtype) {
        for (int round = 0; round < (variant.tiny() ? 12 : 4); ++round) {
            Problem p;
            p.dtype = p.y_dtype = dtype;
            p.channels = variant.tiny() ? 4 + round % 3 : 40, p.seed = ++seed;
            p.reverse = round % 2, p.with_initial = round % 3 != 0, p.with_grad_last = round / 2 % 2;
            // Of any length, of three steps at most, or of one; many of them in one tile; some without steps.
            const uint32_t count = round == 3 ? 70 : 1 + random() % 9;
            const uint32_t longest = round == 3 ? 3 : round == 5 ? 1 : variant.tiny() ? 40 : 200;
            p.offsets = {0};
            for (uint32_t i = 0; i < count; ++i) {
                p.offsets.push_back(p.offsets.back() + (random() % 4 == 0 ? 0 : random() % (longest + 1)));
            }
            if (p.offsets.back() == 0) p.offsets.back() = 5;
            if (round % 4 == 1) p.offsets.push_back(p.offsets.back());
            p.length = p.offsets.back();
            Request request;
            request.variant = variant;
            if (round % 2) request.tree = {1, 2};
            expect(p, request, p.channels % access_width(variant, dtype) == 0);
        }
    }
}

// A value that is not finite reaches later steps of its own channel, those of its own sequence, and no others.
void Checker::non_finite(Variant variant) {
    const int64_t width = 8, middle = variant.tiny() ? 30 : 300, end = 2 * middle;
    Request request;
    request.variant = variant;
    for (int packed = 0; packed < 2; ++packed) {
        Problem p;
        p.length = end, p.channels = width;
        if (packed) p.offsets = {0, middle - 10, middle + 15, end};
        Operands operands(p);
        operands.x.buffer.set(kF32, middle * width + 2, packed ? HUGE_VAL : NAN);
        Results out;
        bool good = run(p, operands, request, {}, out);
        for (int64_t t = 0; good && t < end; ++t) {
            for (int64_t d = 0; d < width; ++d) {
                const bool reached = d == 2 && t >= middle && (!packed || t < middle + 15);
                good &= (isfinite(out.y.get(kF32, t * width + d)) != 0) == !reached;
            }
        }
        record(good, "a non-finite x" + std::string(packed ? " in packed sequences" : ""));
    }
    // The product of the gates overflows, the state does not: it is zero until the last step.
    Problem p;
    p.length = end, p.channels = width;
    Operands operands(p);
    for (int64_t i = 0; i < end * width; ++i) {
        operands.a.buffer.set(kF32, i, i / width == middle ? 0 : 1e30);
        operands.b.buffer.set(kF32, i, i / width == end - 1 ? 1 : 0);
    }
    request.dx = request.da = request.db = request.dh0 = false;  // these do overflow
    Results out;
    record(run(p, operands, request, {}, out) && correct(p, Reference(p, operands), out), "overflowing gates");
}

// A sequence gives the same bits in a batch and alone.
void Checker::alone(Variant variant) {
    for (uint32_t dtype = 0; dtype < 4; ++dtype) {
        Problem batch;
        batch.dtype = batch.y_dtype = dtype, batch.seed = 900 + dtype;
        batch.batch = 3, batch.length = variant.tiny() ? 77 : 600, batch.channels = variant.tiny() ? 12 : 72;
        batch.with_initial = batch.with_grad_last = true;
        Problem single = batch;
        single.batch = 1;
        const Operands all(batch);
        Operands one = all;
        for (Tensor* tensor : {&one.x, &one.a, &one.b, &one.c, &one.grad_y}) {
            tensor->first += tensor->operand.batch_stride;
        }
        const auto row = [](const Buffer& buffer) {  // the second of three
            Buffer part(buffer.size() / 3);
            memcpy(part.data(), buffer.data() + part.size(), part.size());
            return part;
        };
        one.initial = row(all.initial), one.grad_last = row(all.grad_last);
        Request request;
        request.variant = variant;
        Results together, expected, out;
        const bool ran = run(batch, all, request, {1, 5, 5}, together) && run(single, one, request, {2, 3, 3}, out);
        if (ran) {
            expected = {row(together.y),  row(together.last), row(together.saved), row(together.dx),
                        row(together.da), row(together.db),   row(together.dc),    row(together.dh0)};
            error_ = "bits depend on the batch";
        }
        record(ran && same_bits(expected, out), batch.describe());
    }
}

}  // namespace selftest
