// The terms of a thread's segment of a tile, for a pass that needs them more than once: gates and drives, and the adjoints of the
// states, readout_t g_t. Both ways give the same bits.
#pragma once

#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// In registers, as they were made of the inputs. The inputs themselves may be gone by then.
template <class Form, class Tile, bool kAgain_>
class SegmentTerms {
public:
    using Acc = typename Tile::Acc;
    static constexpr bool kAgain = kAgain_;

    template <class Terms>
    QUICK_SSM_DEVICE void keep(int step, int v, const Terms& terms, Acc g) {
        gates_[step][v] = terms.gate, drives_[step][v] = terms.drive, adjoints_[step][v] = rounded_product(terms.readout, g);
    }
    template <class Inputs>
    QUICK_SSM_DEVICE Acc gate(int step, int v, const Inputs&) const {
        return gates_[step][v];
    }
    template <class Inputs>
    QUICK_SSM_DEVICE Acc drive(int step, int v, const Inputs&) const {
        return drives_[step][v];
    }
    template <class Inputs>
    QUICK_SSM_DEVICE Acc adjoint(int step, int v, const Inputs&, Acc) const {
        return adjoints_[step][v];
    }

private:
    Acc gates_[Tile::kSteps][Tile::kVector], drives_[Tile::kSteps][Tile::kVector], adjoints_[Tile::kSteps][Tile::kVector];
};

// Made of the inputs whenever they are asked for, which leaves the registers to more blocks.
template <class Form, class Tile>
class SegmentTerms<Form, Tile, true> {
public:
    using Acc = typename Tile::Acc;
    static constexpr bool kAgain = true;

    template <class Terms>
    QUICK_SSM_DEVICE void keep(int, int, const Terms&, Acc) {}
    template <class Inputs>
    QUICK_SSM_DEVICE Acc gate(int, int, const Inputs& inputs) const {
        return Form::terms(inputs, 0).gate;
    }
    template <class Inputs>
    QUICK_SSM_DEVICE Acc drive(int, int, const Inputs& inputs) const {
        return Form::terms(inputs, 0).drive;
    }
    template <class Inputs>
    QUICK_SSM_DEVICE Acc adjoint(int, int, const Inputs& inputs, Acc g) const {
        return rounded_product(Form::terms(inputs, 0).readout, g);
    }
};

}  // namespace QUICK_SSM_NAMESPACE
