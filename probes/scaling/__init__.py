"""Loss against training compute: which law the finished trainings follow, and how sure it is."""
