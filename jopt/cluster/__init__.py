"""Weight sharing: k-means codebooks, weights held at their cluster's mean, tied layers."""

from jopt.cluster.kmeans import Clusters as Clusters
from jopt.cluster.kmeans import kmeans as kmeans
from jopt.cluster.kmeans import lookup as lookup
from jopt.cluster.method import Share as Share
from jopt.cluster.sharing import Shared as Shared
from jopt.cluster.sharing import ShareState as ShareState
from jopt.cluster.sharing import share as share
from jopt.cluster.starts import STARTS as STARTS
from jopt.cluster.tying import Tie as Tie
from jopt.cluster.tying import free_parameters as free_parameters
from jopt.cluster.tying import tie as tie
