"""What a network's scores are worth: metrics per pathology, intervals, comparisons. numpy only, no torch."""
