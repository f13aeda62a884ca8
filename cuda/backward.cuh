// The backward scan, in one pass over the inputs of its form, grad_y and the gradients of the inputs. With g_t the gradient of
// y_t:
//
//     dh_t = readout_t g_t + z_{t+1}    z_t = gate_t dh_t    dreadout_t = g_t h_t    dgate_t = dh_t h_{t-1}
//
// and dh_t is the gradient of the drive. h is recomputed inside the tile from the state saved before it. What passes
// between stretches of time is z and not dh: its gates are then those of the forward scan over the same stretch, and no
// gate of a neighbour is needed.
#pragma once

#include "bias.cuh"
#include "feed.cuh"
#include "forms.cuh"
#include "kept.cuh"
#include "look_back.cuh"
#include "segment_terms.cuh"
#include "sequences.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Form, bool kVectorised, bool kPacked>
struct Backward {
    using Arguments = Params;
    using Tile = typename Form::Backward;
    using T = typename Tile::Value;
    using Acc = typename Tile::Acc;
    using Operator = CarryOperator<Acc, kPacked>;
    using TileLookBack = LookBack<Tile, kPacked>;
    using TileTickets = Tickets<Tile, true>;
    using TileRows = Rows<Tile, kVectorised>;
    template <int kTensors>
    using GradientWriter = typename TileRows::template Writer<T, kTensors>;
    using TileStages = Stages<Tile, Form::kInputs + 1, kVectorised>;
    using TileFeed = Feed<Backward>;
    using Inputs = StepInputs<TileStages, Form::kInputs>;
    static constexpr int kVector = Tile::kVector;
    static constexpr int kSteps = Tile::kSteps;
    static constexpr int kGradY = Form::kInputs;  // the last of the inputs
    static constexpr int kKept = Form::kKept;
    // A block that is fed behind has the inputs of a tile in shared memory to its end.
    using Terms = SegmentTerms<Form, Tile, Form::kTermsAgain && Tile::kFeeding == Feeding::kBehind>;
    using Held = Pack<T, kVector>;

    struct Shared : KeptTerms<Tile, kKept> {
        typename TileStages::Shared stages;
        SharedArray<Carry<Acc>, Tile::kSegments * Tile::kChannels> segments;
        // The same of z; at the end, in its states, what each segment adds to the gradient of the bias.
        SharedArray<Carry<Acc>, Tile::kSegments * Tile::kChannels> adjoints;
        SharedArray<Acc, Tile::kChannels> saved;
        typename TileLookBack::Shared entering;
        typename TileTickets::Shared tickets;
        SequenceMarks<Tile, kPacked> marks;
    };

    QUICK_SSM_DEVICE static void run(const Params& params) {
        QUICK_SSM_SHARED(Shared, shared);
        TileFeed feed(params, shared);
        while (feed.begin()) tile(params, shared, feed);
        feed.finish();
    }

    template <class Visit>
    QUICK_SSM_DEVICE static void each_input(const Params& params, const Visit& visit) {
        QUICK_SSM_UNROLL
        for (int input = 0; input < Form::kInputs; ++input) {
            visit(Form::operand(params, input), input, Form::backward_reads(params, input), Form::fill(input));
        }
        if (params.grad_y.dtype == Element<T>::kType) visit(params.grad_y, kGradY, true, 0);
    }

    // Has the state before a tile copied, for the threads that combine the states: they do so before the next tile's comes.
    QUICK_SSM_DEVICE static void fetch(const Params& params, Shared& shared, const Place& place) {
        if (!TileLookBack::asker()) return;
        Acc& saved = shared.saved[TileLookBack::slot()];
        const uint32_t channel = TileRows::slot_channel(place, TileLookBack::slot());
        if (!Form::needs_h(params) || channel >= params.channels) {
            saved = 0;
            return;
        }
        copy_async<sizeof(Acc)>(&saved, static_cast<const Acc*>(params.saved_states) +
                                            params.saved_row(place.batch, place.chunk) * params.channels + channel);
    }

    QUICK_SSM_BOTH static constexpr Moment moment(int input) {
        const Part last = input == kGradY ? Part::kScan : Form::last_part(input);
        return last == Part::kScan ? Moment::kPublished : last == Part::kReadout ? Moment::kEntered : Moment::kRead;
    }

private:
    QUICK_SSM_DEVICE static void tile(const Params& params, Shared& shared, TileFeed& feed) {
        const Place place = feed.place();
        const TileStages& stages = feed.stages();
        const uint32_t order = params.chunks - 1 - place.chunk;
        const TileRows rows(params, place);

        SegmentMarks<Tile, kPacked> marks;
        if constexpr (kPacked) {
            mark_sequences<Tile>(params, static_cast<int64_t>(place.chunk) * Tile::kLength, rows,
                                 params.grad_last_state, params.dh0, shared.marks);
            marks.read(shared.marks, rows.segment());
        }

        Acc bias[kVector] = {};
        if constexpr (Form::kBias) load_bias(params, rows.channel(0), bias);
        Terms terms;
        Acc states[kSteps][kVector], g[kSteps][kVector];
        Held held[kSteps];
        load_grad_y(params, rows, stages, g);
        scan_segment(params, shared, rows, stages, marks, bias, terms, g, held);
        feed.announce();
        QUICK_SSM_BARRIER("segments scanned");

        TileLookBack look_back(params, feed.tag(), place.column, order);
        const int slot = TileLookBack::slot();
        const bool holder = TileLookBack::holder(), asker = TileLookBack::asker(), needs_z = Form::needs_z(params);
        Carry<Acc> own = Operator::nothing();
        Acc initial = 0;
        if (!kPacked && order == 0 && (holder || asker)) {
            initial = rows.load_state(params.grad_last_state, rows.batch(), rows.slot_channel(slot));
        }
        const auto ask = [&] {
            if (needs_z) look_back.ask();
        };
        if (asker) combine_states(shared, slot, ask);
        if (holder) {
            own = combine_adjoints(shared, slot, ask);
            if (needs_z) look_back.publish(own, initial);
        }
        feed.published();
        QUICK_SSM_BARRIER("segments combined");

        // While the carries of other tiles arrive.
        write_readout_gradients(params, shared, rows, stages, marks, held, terms, states, g);
        if (needs_z) look_back.wait(shared.entering, initial);
        QUICK_SSM_BARRIER("entering gradient written");
        if (needs_z && holder) look_back.publish_state(own, TileLookBack::entering(shared.entering, slot));
        feed.entered();
        if (needs_z) {
            write_state_gradients(params, shared, rows, stages, marks, terms, states, g);
            if (Form::kBias && params.d_bias) write_bias_gradient(params, shared, rows, place.chunk);
        }
        feed.read();
    }

    QUICK_SSM_DEVICE static void load_grad_y(const Params& params, const TileRows& rows, const TileStages& stages,
                                             Acc (&g)[kSteps][kVector]) {
        if (params.grad_y.dtype != Element<T>::kType) {
            rows.load_any(params.grad_y, g);
            return;
        }
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            const auto pack = stages.read(kGradY, rows.segment() * kSteps + s, rows.lane());
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) g[s][v] = pack[v];
        }
    }

    // Scans the segment in both directions from zero, and leaves its terms.
    QUICK_SSM_DEVICE static void scan_segment(const Params& params, Shared& shared, const TileRows& rows,
                                              const TileStages& stages, const SegmentMarks<Tile, kPacked>& marks,
                                              const Acc (&bias)[kVector], Terms& terms,
                                              const Acc (&g)[kSteps][kVector], Held (&held)[kSteps]) {
        Carry<Acc> carry[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) carry[v] = {marks.any() ? Operator::kCut : 1, 0};
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            const Inputs inputs(stages, rows.segment() * kSteps + s, rows.lane());
            if constexpr (Form::kHeld >= 0) held[s] = inputs.pack(Form::kHeld);
            Acc kept[kKept > 0 ? kKept : 1][kVector];
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                const auto step = Form::terms(inputs[v], bias[v]);
                if (marks.starts(s)) carry[v].state = initial_state(params, shared, rows, s, v);
                carry[v] = {Operator::multiply(carry[v].gate, step.gate), step.gate * carry[v].state + step.drive};
                terms.keep(s, v, step, g[s][v]);
                QUICK_SSM_UNROLL
                for (int n = 0; n < kKept; ++n) kept[n][v] = step.kept[n];
            }
            shared.keep(s, kept);
        }
        if (Terms::kAgain) read_again();
        Acc z[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) z[v] = 0;
        QUICK_SSM_UNROLL
        for (int s = kSteps - 1; s >= 0; --s) {
            const Inputs inputs(stages, rows.segment() * kSteps + s, rows.lane());
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (marks.ends(s)) z[v] = grad_last_state(params, shared, rows, s, v);
                z[v] = terms.gate(s, v, inputs[v]) * (terms.adjoint(s, v, inputs[v], g[s][v]) + z[v]);
            }
        }
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            const Acc gate = Operator::gate_of(carry[v].gate);
            shared.segments[rows.entry(v)] = {gate, carry[v].state};
            shared.adjoints[rows.entry(v)] = {gate, z[v]};
        }
    }

    // Leaves with each segment the state that enters it. Calls `ask` when it has read the segments.
    template <class Ask>
    QUICK_SSM_DEVICE static void combine_states(Shared& shared, int slot, const Ask& ask) {
        Acc h = shared.saved[slot];
        Carry<Acc> segments[Tile::kSegments];
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) segments[i] = shared.segments[i * Tile::kChannels + slot];
        ask();
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) {
            shared.segments[i * Tile::kChannels + slot].state = h;
            h = Operator::apply(segments[i], h);
        }
    }
    // Leaves with each segment the carry of z over all later segments; returns that over the tile. Calls `ask` as well.
    template <class Ask>
    QUICK_SSM_DEVICE static Carry<Acc> combine_adjoints(Shared& shared, int slot, const Ask& ask) {
        Carry<Acc> segments[Tile::kSegments];
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) segments[i] = shared.adjoints[i * Tile::kChannels + slot];
        ask();
        Carry<Acc> later = Operator::nothing();
        Acc product = later.gate;
        QUICK_SSM_UNROLL
        for (int i = Tile::kSegments - 1; i >= 0; --i) {
            shared.adjoints[i * Tile::kChannels + slot] = later;
            product = Operator::multiply_stretches(product, segments[i].gate);
            later = {Operator::gate_of(product), Operator::apply(segments[i], later.state)};
        }
        return later;
    }

    // Runs the segment from the state that really enters it, and leaves the state before each step, and readout_t g_t in the
    // place of g_t.
    QUICK_SSM_DEVICE static void write_readout_gradients(const Params& params, Shared& shared, const TileRows& rows,
                                                         const TileStages& stages,
                                                         const SegmentMarks<Tile, kPacked>& marks,
                                                         const Held (&held)[kSteps],
                                                         const Terms& terms, Acc (&before)[kSteps][kVector],
                                                         Acc (&g)[kSteps][kVector]) {
        GradientWriter<Form::kReadoutGradients> writer(
            rows, [&](int n) { return Form::readout_gradient(params, n); }, params.gradient_stride, Order::kForwards);
        Acc h[kVector], y[kSteps][kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) h[v] = shared.segments[rows.entry(v)].state;
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            const Inputs inputs(stages, rows.segment() * kSteps + s, rows.lane());
            const auto kept = shared.kept(s);
            Acc gradients[Form::kReadoutGradients][kVector];
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (marks.starts(s)) h[v] = initial_state(params, shared, rows, s, v);
                const auto again = [&](int input) { return input == Form::kHeld ? held[s][v] : inputs[v](input); };
                const Acc readout = Form::readout(again, kept[v]);
                before[s][v] = h[v];
                h[v] = terms.gate(s, v, again) * h[v] + terms.drive(s, v, again);
                Acc of_inputs[Form::kReadoutGradients];
                Form::readout_gradients(kept[v], g[s][v] * h[v], of_inputs);
                QUICK_SSM_UNROLL
                for (int n = 0; n < Form::kReadoutGradients; ++n) gradients[n][v] = of_inputs[n];
                g[s][v] = rounded_product(readout, g[s][v]);
                y[s][v] = readout * h[v];
            }
            writer.write(s, gradients);
        }
        if (Form::kOutputAgain && params.y) rows.store_any(params.y, params.y_dtype, y);
    }

    // Runs the segment backwards from the z that really enters it.
    QUICK_SSM_DEVICE static void write_state_gradients(const Params& params, Shared& shared, const TileRows& rows,
                                                       const TileStages& stages,
                                                       const SegmentMarks<Tile, kPacked>& marks,
                                                       const Terms& terms, const Acc (&before)[kSteps][kVector],
                                                       const Acc (&adjoint)[kSteps][kVector]) {
        GradientWriter<Form::kStateGradients> writer(
            rows, [&](int n) { return Form::state_gradient(params, n); }, params.gradient_stride, Order::kBackwards);
        Acc z[kVector], of_bias[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            const int entry = rows.entry(v);
            z[v] = Operator::apply(shared.adjoints[entry], TileLookBack::entering(shared.entering, rows.slot(v)));
            of_bias[v] = 0;
        }
        QUICK_SSM_UNROLL
        for (int s = kSteps - 1; s >= 0; --s) {
            if (marks.ends(s)) {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) z[v] = grad_last_state(params, shared, rows, s, v);
            }
            const Inputs inputs(stages, rows.segment() * kSteps + s, rows.lane());
            const auto kept = shared.kept(s);
            Acc gradients[Form::kStateGradients][kVector];
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                const Acc dh = adjoint[s][v] + z[v];
                Acc of_inputs[Form::kStateGradients];
                Form::state_gradients(inputs[v], kept[v], dh * before[s][v], dh, of_inputs);
                QUICK_SSM_UNROLL
                for (int n = 0; n < Form::kStateGradients; ++n) gradients[n][v] = of_inputs[n];
                of_bias[v] += of_inputs[0];
                z[v] = terms.gate(s, v, inputs[v]) * dh;
            }
            writer.write(s, gradients);
            if (params.dh0 && (kPacked ? marks.starts(s) : rows.first() + s == 0)) {
                const int64_t row = kPacked ? shared.marks.first[rows.segment() * kSteps + s] - 1 : rows.batch();
                rows.store_state(params.dh0, row, z);
            }
        }
        if (Form::kBias && params.d_bias) {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) shared.adjoints[rows.entry(v)].state = of_bias[v];
        }
    }

    // That of the tile, from those that the segments have left.
    QUICK_SSM_DEVICE static void write_bias_gradient(const Params& params, Shared& shared, const TileRows& rows,
                                                     uint32_t chunk) {
        QUICK_SSM_BARRIER("bias gradients written");
        const int slot = thread_index();
        if (slot >= Tile::kChannels) return;
        Acc sum = 0;
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) sum += shared.adjoints[i * Tile::kChannels + slot].state;
        rows.store_slot(params.d_bias, static_cast<int64_t>(rows.batch()) * params.chunks + chunk, slot, sum);
    }

    // The state that enters the sequence which starts at step `s` of the segment.
    QUICK_SSM_DEVICE static Acc initial_state(const Params& params, Shared& shared, const TileRows& rows, int s, int v) {
        const int64_t sequence = static_cast<int64_t>(shared.marks.first[rows.segment() * kSteps + s]) - 1;
        return rows.load_state(params.initial_state, sequence, rows.channel(v));
    }
    // The gradient of the state that leaves the sequence which ends there.
    QUICK_SSM_DEVICE static Acc grad_last_state(const Params& params, Shared& shared, const TileRows& rows, int s,
                                                int v) {
        const int64_t sequence = static_cast<int64_t>(shared.marks.last[rows.segment() * kSteps + s]) - 1;
        return rows.load_state(params.grad_last_state, sequence, rows.channel(v));
    }
};

}  // namespace QUICK_SSM_NAMESPACE
