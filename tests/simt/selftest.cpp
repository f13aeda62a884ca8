// Runs the kernels under the emulation against double precision, over types, sizes, options and interleavings,
// and shows that a kernel without one of its barriers does not pass.
//
//     selftest [interleavings]
//
// Compiled with QUICK_SSM_SIMT_LIBRARY it is a function of the C interface.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "check.hpp"

namespace selftest {

class Emulation : public Machine {
public:
    bool describe(Variant variant, const std::string& kernel, quick_ssm_simt_kernel& out) override {
        return quick_ssm_simt_describe(variant.tiles, kernel.c_str(), &out) == 0;
    }
    void* workspace(uint64_t bytes) override {
        return bytes <= sizeof(Word) * memory_.size() ? memory_.data() : nullptr;
    }
    void* place(const Buffer& buffer) override { return const_cast<char*>(buffer.data()); }
    const char* launch(Variant variant, const std::string& kernel, const quick_ssm_simt_kernel& description,
                       const Params& params, const Schedule& schedule) override {
        const int status = quick_ssm_simt_launch(variant.tiles, kernel.c_str(), &params, schedule.grid,
                                                 description.threads, schedule.resident, schedule.seed, schedule.skipped_barrier, message_,
                                                 sizeof message_);
        return status == 0 ? nullptr : message_;
    }
    void collect() override {}
    void clear_workspace() { std::fill(memory_.begin(), memory_.end(), Word{}); }

private:
    struct alignas(16) Word {
        uint64_t halves[2];
    };
    std::vector<Word> memory_ = std::vector<Word>(1 << 20);
    char message_[600];
};

// Without a barrier something must go wrong under some interleaving.
void removed_barriers(Emulation& emulation, Checker& checker) {
    const char* const barriers[] = {"ticket drawn",           "tile loaded",               "segments scanned",
                                    "segments combined",      "entering state written",    "entering gradient written",
                                    "boundary search",        "marks written",             "tile read"};
    for (const char* barrier : barriers) {
        bool caught = false;
        for (uint32_t seed = 1; seed <= 40 && !caught; ++seed) {
            Problem p;
            p.batch = 2, p.length = 300, p.channels = 8, p.seed = seed;
            if (strstr(barrier, "mark") || strstr(barrier, "search")) {
                p.batch = 1, p.offsets = {0}, p.with_initial = true;
                while (p.offsets.back() < p.length) {
                    p.offsets.push_back(std::min<int64_t>(p.length, p.offsets.back() + 1 + seed % 9));
                }
            }
            const Operands operands(p);
            Request request;
            request.variant.narrow = strcmp(barrier, "tile read") == 0;
            request.tree = {2, 4};
            Results out;
            caught = !checker.run(p, operands, request, {seed, 6, 6, barrier}, out) ||
                     !checker.correct(p, Reference(p, operands), out);
            emulation.clear_workspace();
        }
        if (caught) printf("without '%s': %s\n", barrier, checker.error().c_str());
        checker.record(caught, std::string("the barrier '") + barrier + "' is not missed");
    }
}

}  // namespace selftest

extern "C" int quick_ssm_simt_self_test(uint32_t interleavings) {
    using namespace selftest;
    Emulation emulation;
    Checker checker(emulation, interleavings);
    for (const Variant variant : kVariants) {
        const std::string tiles = ", " + variant.describe() + " tiles";
        checker.sizes(variant), checker.report(("sizes" + tiles).c_str());
        checker.options(variant), checker.report(("options" + tiles).c_str());
        checker.packed(variant), checker.report(("packed" + tiles).c_str());
        checker.alone(variant), checker.report(("alone" + tiles).c_str());
        checker.non_finite(variant), checker.report(("non-finite values" + tiles).c_str());
    }
    removed_barriers(emulation, checker), checker.report("removed barriers");
    return checker.failures() != 0;
}

#ifndef QUICK_SSM_SIMT_LIBRARY
int main(int count, char** arguments) {
    return quick_ssm_simt_self_test(count > 1 ? static_cast<uint32_t>(strtoul(arguments[1], nullptr, 10)) : 6);
}
#endif
