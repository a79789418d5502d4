"""From a folder to a job: what there is, what is complete, what is done already."""
