#pragma once

namespace chronoward {

/// Version of the on-disk and RNG rules that the core implements; raised when bytes change.
int rules_version() noexcept;

}  // namespace chronoward
