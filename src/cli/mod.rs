//! One file a command: arguments, output, exit codes.
