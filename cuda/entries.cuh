// The entry points of one direction, form and type. A `_vector` kernel needs channel stride 1, and addresses, batch and
// time strides and D that are multiples of its access width; an `_element` kernel takes any layout. A `_narrow` kernel is for
// tensors of few channels; a `_large` one needs what a `_vector` kernel needs, and the shared memory.
#pragma once

#include "backward.cuh"
#include "forward.cuh"

#define QUICK_SSM_ENTRIES(name, Direction, Form, Type)                 \
    QUICK_SSM_ENTRIES_OF_WIDTH(name, Direction, Form, Type, kWide)         \
    QUICK_SSM_ENTRIES_OF_WIDTH(name##_narrow, Direction, Form, Type, kNarrow)

#define QUICK_SSM_ENTRIES_OF_WIDTH(name, Direction, Form, Type, kWidth)                               \
    QUICK_SSM_ENTRY(name##_vector, QUICK_SSM_KERNEL(Direction, Form, Type, kWidth, true, false))        \
    QUICK_SSM_ENTRY(name##_element, QUICK_SSM_KERNEL(Direction, Form, Type, kWidth, false, false))      \
    QUICK_SSM_ENTRY(name##_vector_packed, QUICK_SSM_KERNEL(Direction, Form, Type, kWidth, true, true))  \
    QUICK_SSM_ENTRY(name##_element_packed, QUICK_SSM_KERNEL(Direction, Form, Type, kWidth, false, true))

#define QUICK_SSM_LARGE_ENTRY(name, Direction, Form, Type) \
    QUICK_SSM_ENTRY(name##_large_vector, QUICK_SSM_KERNEL(Direction, Form, Type, kLarge, true, false))

#define QUICK_SSM_KERNEL(Direction, Form, Type, kWidth, kVectorised, kPacked)                                         \
    QUICK_SSM_NAMESPACE::Direction<                                                                               \
        QUICK_SSM_NAMESPACE::Form<QUICK_SSM_NAMESPACE::Type, QUICK_SSM_NAMESPACE::Width::kWidth>, kVectorised, kPacked>
