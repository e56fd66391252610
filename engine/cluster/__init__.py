"""A train on a Ray cluster.

    platform's machine                     cluster
    engine.cluster DIR  -- Ray Job -->     driver  -- Ray Train -->  one worker a device, each a rank
    waits, renews the lease                watches the lease         as on one machine

    api        Ray's HTTP interface
    state      the nodes and devices of a cluster
    order      what the client passes to the driver, and the driver to its workers
    driver_log what the driver reports to the client, through the job's log
    code       the engine's source, which the client sends along
    versions   of code and libraries, which must be the same everywhere
    secrets    what may not stand in Ray's logs
    lease      a sign of life of the client, without which the driver ends the train
    jobs       Ray jobs: submit, watch, stop, and those of earlier attempts
    client     the process that the platform starts and watches, as it does any engine
    driver     the job: workers, again after a node was lost, on fewer where it stays away
    run_files  where a node finds the run directory and what the train needs
    worker     one rank
    checks     data, clocks

Nothing here imports Ray or torch before a function that needs them: state and api are asked by the
platform's processes, and the client trains nothing."""
