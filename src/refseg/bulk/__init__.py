"""Many images: a source is split into shards, and each shard becomes one of a sink, in processes of Ray Data.

A shard of the sink is written completely or not at all, and has exactly the rows of its shard of the source. Whatever
is killed, the shards that are done say what is left to do.
"""
