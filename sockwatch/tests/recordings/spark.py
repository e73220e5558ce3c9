"""Asks Spark the documented question about exported partitions, and compares the answer with the report's.

    python spark.py DIRECTORY

DIRECTORY has lake/ and web.html, both of one recording. Spark runs as a cluster of two workers, each a process of its own, on this
machine.
"""

import json
import os
import re
import sys

import documented
from pyspark.sql import SparkSession

directory = sys.argv[1]

# Nobody else is to reach the cluster.
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"

with open(f"{directory}/web.html") as file:
    page = file.read()
data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
report = json.loads(data)["after"]["diagnosis"]

spark = (
    SparkSession.builder.master("local-cluster[2,1,1024]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.shuffle.partitions", "2")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")

rows = documented.answer("spark", f"{directory}/lake", spark=spark)
workers = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1
spark.stop()

assert workers == 2, workers
listeners = {listener["local"].rsplit(":", 1)[1]: listener for listener in report["listeners"]}
assert len(rows) == len(listeners) > 0, (rows, listeners)
for row in rows:
    listener = listeners[str(row["local_port"])]
    wait = listener["wait"]
    assert (row["accepted"], row["max_ns"]) == (listener["accepted"], wait["max_ns"]), (row, listener)
    # The report's percentiles are right to within 1 %.
    assert abs(row["p99_ns"] - wait["p99_ns"]) <= wait["p99_ns"] / 100, (row, wait)
print(f"Spark on {workers} workers: {rows[0].asDict()}, as the report says")
