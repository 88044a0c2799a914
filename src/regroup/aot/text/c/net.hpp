// $title for $machine, written by regroup $version. Do not edit.
#ifndef ${NAME}_HPP
#define ${NAME}_HPP

#include <memory>
#include <stdexcept>

#include "$name.h"

namespace $name {

/// The network with an arena of its own: use it from one thread at a time, and make one for each thread.
class Network {
public:
$constructor

    /// Do one image. $sizes
    void run($parameters) {
        switch ($function($arguments)) {
        case ${NAME}_OK: return;
        case ${NAME}_NULL_POINTER: throw std::invalid_argument("${name}_run: an argument is no address");
        case ${NAME}_NO_CPU: throw std::runtime_error("${name}_run: there is no code for this CPU");
        default: throw std::invalid_argument("${name}_run: memory that is not aligned");
        }
    }

private:
    struct Arena {
        alignas(${NAME}_ALIGNMENT) unsigned char bytes[${NAME}_ARENA_BYTES];
    };

    std::unique_ptr<Arena> arena_{new Arena};
$members};

} // namespace $name

#endif
