"""One model on several processes: each rank holds a part of every layer, rank 0 leads.

Rank 0 is the engine: it takes requests, schedules, and draws tokens. The others hold their parts of
weights, keys and values, and repeat what it does to them. They are its children, and end with it.

* ``plan``       which layers are split, and how: transformers' own tensor parallel plan
* ``shard``      leaves a rank's part of a model, and of adapters
* ``group``      sums and joins tensors over the ranks
* ``orders``     what rank 0 tells the others, and the channel on which
* ``moves``      what happens to the cache outside steps
* ``processes``  starts the others, watches them, ends them
* ``lead``       model, cache and adapters of rank 0, which tell the others
* ``follow``     the process of another rank, and ``follower`` its model, cache and adapters
"""
