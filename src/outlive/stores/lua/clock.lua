-- The store's clock.
--
-- ARGV  time of a test or '', high-water mark
return text(clock(ARGV[1], ARGV[2]))
