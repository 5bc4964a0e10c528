"""Records of batches: what stands beside an OUTPUT, and its rows made again from that.

`record.batch_record` makes the document; `read.read_batch` reads one, finds INPUT and OUTPUT and compares them with it;
`select` says which rows are run again, and `compare.Comparer` holds them against those of OUTPUT.
"""
