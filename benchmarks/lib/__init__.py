"""What all benchmarks share: servers, clients, a receiver in C, facts of the machine, statistics, tables, results."""
