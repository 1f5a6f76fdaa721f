-- Random requests from the file that PATHS names; at the end one line of figures for the benchmark.
local requests = {}

function init(args)
   for line in io.lines(os.getenv("PATHS")) do
      requests[#requests + 1] = wrk.format("GET", line)
   end
   math.randomseed(tonumber(os.getenv("SEED")))
end

function request()
   return requests[math.random(#requests)]
end

function done(summary, latency, _)
   local e = summary.errors
   io.write(string.format("FIGURES %d %d %d %d %f %f\n", summary.requests, summary.duration, e.status,
      e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
