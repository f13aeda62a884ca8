// The forward scan, h_t = gate_t h_{t-1} + drive_t and y_t = readout_t h_t, in one pass over the inputs of its form and y.
//
// A thread reads its segment from the tile in shared memory, scans it from zero, and keeps gates and drives. Segments
// combine in shared memory, tiles through the look-back, while the inputs of the next tile arrive; then each thread runs
// its segment again from the state that really enters.
#pragma once

#include "bias.cuh"
#include "feed.cuh"
#include "forms.cuh"
#include "look_back.cuh"
#include "sequences.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Form, bool kVectorised, bool kPacked>
struct Forward {
    using Arguments = Params;
    using Tile = typename Form::Forward;
    using Acc = typename Tile::Acc;
    using Operator = CarryOperator<Acc, kPacked>;
    using TileLookBack = LookBack<Tile, kPacked>;
    using TileTickets = Tickets<Tile, false>;
    using TileRows = Rows<Tile, kVectorised>;
    using TileStages = Stages<Tile, Form::kInputs, kVectorised>;
    using TileFeed = Feed<Forward>;
    using Inputs = StepInputs<TileStages, Form::kInputs>;
    static constexpr int kVector = Tile::kVector;
    static constexpr int kSteps = Tile::kSteps;

    struct Shared : SharedBias<Tile, Form::kBias> {
        typename TileStages::Shared stages;
        SharedArray<Carry<Acc>, Tile::kSegments * Tile::kChannels> segments;
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
            visit(Form::operand(params, input), input, Form::forward_reads(params, input), Form::fill(input));
        }
    }

    // The bias, by those who then wait for nothing else.
    QUICK_SSM_DEVICE static void fetch(const Params& params, Shared& shared, const Place& place) {
        if (TileLookBack::holder()) shared.fetch_bias(params, place, TileLookBack::slot());
    }

    // Blocks that go in turn wait for one another most of the time, and for what they ask the longer the more inputs are on their
    // way: the last of these comes afterwards.
    QUICK_SSM_BOTH static constexpr Moment moment(int input) {
        if (Form::of_readout(input)) return Moment::kBegun;
        return Tile::kInTurn && Form::of_readout(input + 1) ? Moment::kEntered : Moment::kPublished;
    }

private:
    QUICK_SSM_DEVICE static void tile(const Params& params, Shared& shared, TileFeed& feed) {
        const Place place = feed.place();
        const TileRows rows(params, place);

        SegmentMarks<Tile, kPacked> marks;
        if constexpr (kPacked) {
            mark_sequences<Tile>(params, static_cast<int64_t>(place.chunk) * Tile::kLength, rows, params.initial_state,
                                 params.last_state, shared.marks);
            marks.read(shared.marks, rows.segment());
        }

        Acc gates[kSteps][kVector], drives[kSteps][kVector];
        scan_segment(params, shared, rows, feed.stages(), marks, gates, drives);
        feed.announce();
        QUICK_SSM_BARRIER("segments scanned");
        enter(params, shared, rows, place, feed);
        feed.entered();
        replay(params, shared, rows, feed.stages(), marks, gates, drives);
        feed.read();
    }

    QUICK_SSM_DEVICE static void scan_segment(const Params& params, Shared& shared, const TileRows& rows,
                                              const TileStages& stages, const SegmentMarks<Tile, kPacked>& marks,
                                              Acc (&gates)[kSteps][kVector], Acc (&drives)[kSteps][kVector]) {
        Carry<Acc> carry[kVector];
        Acc bias[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            carry[v] = Operator::nothing();
            bias[v] = shared.bias(rows.slot(v));
        }
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            const Inputs inputs(stages, rows.segment() * kSteps + s, rows.lane());
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (marks.starts(s)) carry[v] = {Operator::kCut, initial_state(params, shared, rows, s, v)};
                const auto terms = Form::terms(inputs[v], bias[v]);
                carry[v] = {Operator::multiply(carry[v].gate, terms.gate), terms.gate * carry[v].state + terms.drive};
                gates[s][v] = terms.gate, drives[s][v] = terms.drive;
            }
        }
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            shared.segments[rows.entry(v)] = {Operator::gate_of(carry[v].gate), carry[v].state};
        }
    }

    // Replaces the carry of each segment by that of all segments before it, and finds what enters the tile.
    QUICK_SSM_DEVICE static void enter(const Params& params, Shared& shared, const TileRows& rows, const Place& place,
                                       TileFeed& feed) {
        TileLookBack look_back(params, feed.tag(), place.column, place.chunk);
        const int slot = TileLookBack::slot();
        Carry<Acc> own = Operator::nothing();
        Acc initial = 0;
        // The first step of a packed tensor starts a sequence, which brings its own state.
        if (!kPacked && place.chunk == 0 && (TileLookBack::holder() || TileLookBack::asker())) {
            initial = rows.load_state(params.initial_state, rows.batch(), rows.slot_channel(slot));
        }
        if (TileLookBack::asker()) look_back.ask();
        if (TileLookBack::holder()) {
            own = combine_segments(shared, slot, [&] { look_back.ask(); });
            look_back.publish(own, initial);
        }
        feed.published();
        look_back.wait(shared.entering, initial);
        feed.entering();
        QUICK_SSM_BARRIER("entering state written");
        if (TileLookBack::holder()) look_back.publish_state(own, TileLookBack::entering(shared.entering, slot));
    }
    // Leaves with each segment the carry over all segments before it; returns that over the tile. Calls `ask` when it has read
    // them, or at the end where packed sequences leave no registers for the answers.
    template <class Ask>
    QUICK_SSM_DEVICE static Carry<Acc> combine_segments(Shared& shared, int slot, const Ask& ask) {
        Carry<Acc> segments[Tile::kSegments], own = Operator::nothing();
        Acc product = own.gate;
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) segments[i] = shared.segments[i * Tile::kChannels + slot];
        if (!kPacked) ask();
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) {
            shared.segments[i * Tile::kChannels + slot] = own;
            product = Operator::multiply_stretches(product, segments[i].gate);
            own = {Operator::gate_of(product), Operator::apply(segments[i], own.state)};
        }
        if (kPacked) ask();
        return own;
    }

    // Runs the segment from the state that really enters it. The states take the place of the drives.
    QUICK_SSM_DEVICE static void replay(const Params& params, Shared& shared, const TileRows& rows,
                                        const TileStages& stages, const SegmentMarks<Tile, kPacked>& marks,
                                        const Acc (&gates)[kSteps][kVector], Acc (&drives)[kSteps][kVector]) {
        Acc h[kVector];
        QUICK_SSM_UNROLL
        for (int v = 0; v < kVector; ++v) {
            const Acc entering = TileLookBack::entering(shared.entering, rows.slot(v));
            h[v] = Operator::apply(shared.segments[rows.entry(v)], entering);
        }
        save(params, rows, h);
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (marks.starts(s)) h[v] = initial_state(params, shared, rows, s, v);
                h[v] = gates[s][v] * h[v] + drives[s][v];
                drives[s][v] = h[v];
            }
        }
        if (params.last_state) write_last_states(params, shared, rows, marks, drives);
        if (!params.y) return;
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            const Inputs inputs(stages, rows.segment() * kSteps + s, rows.lane());
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) drives[s][v] = Form::terms(inputs[v], 0).readout * drives[s][v];
        }
        rows.store_any(params.y, params.y_dtype, drives);
    }

    // The states after the last step of time, or of each packed sequence that ends in the segment.
    QUICK_SSM_DEVICE static void write_last_states(const Params& params, Shared& shared, const TileRows& rows,
                                                   const SegmentMarks<Tile, kPacked>& marks,
                                                   const Acc (&states)[kSteps][kVector]) {
        if (kPacked ? !marks.any() : params.length - rows.first() > kSteps) return;
        QUICK_SSM_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            if (kPacked ? marks.ends(s) : rows.first() + s == params.length - 1) {
                const int64_t row = kPacked ? shared.marks.last[rows.segment() * kSteps + s] - 1 : rows.batch();
                rows.store_state(params.last_state, row, states[s]);
            }
        }
    }

    // The state that enters the sequence which starts at step `s` of the segment.
    QUICK_SSM_DEVICE static Acc initial_state(const Params& params, Shared& shared, const TileRows& rows, int s, int v) {
        const int64_t sequence = static_cast<int64_t>(shared.marks.first[rows.segment() * kSteps + s]) - 1;
        return rows.load_state(params.initial_state, sequence, rows.channel(v));
    }

    QUICK_SSM_DEVICE static void save(const Params& params, const TileRows& rows, const Acc (&h)[kVector]) {
        const int64_t spacing = int64_t{1} << params.saved_shift, time = rows.first();
        if (!params.saved_states || (time & (spacing - 1)) != 0 || time >= params.length) return;
        rows.store_state(params.saved_states, params.saved_row(rows.batch(), time >> params.saved_shift), h);
    }
};

}  // namespace QUICK_SSM_NAMESPACE
