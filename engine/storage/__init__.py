"""Runs, models and datasets for nodes that share no folder with the platform: behind one interface
over fsspec, in a folder or in an S3-compatible store.

    settings   where the storage is, from the environment
    errors     what may be wrong with it, in words
    backends   a folder and a bucket: what is different between them
    store      files and bytes under a name, each verified; tries again where the storage is away
    trees      folders as {name: digest}, many files at once
    cache      what a node has fetched, used by several trains, bounded
    session    one attempt of a train in the storage, and who writes it
    state      what its run directory holds, as the storage knows it
    inputs     what a train needs, from the platform to the nodes
    push       what it makes, from the node to the storage
    download   a run directory made what its state in the storage says
    pull       what it makes, from the storage to the platform
    repeating  a thread that does the same again and again
"""
