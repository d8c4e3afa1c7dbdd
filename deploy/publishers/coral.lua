-- Sends a flash crowd to CoralCDN, and nobody else: for Apache's mod_lua, by apache.conf.

require "apache2"

-- So many requests a second are served here by each process of Apache, and so many at once are no crowd.
local RATE, BURST = 50, 100
-- For a site that speaks https: ".443.nyud.net"
local SUFFIX = ".nyud.net"

function check(r)
    -- The CDN says that it is one (RFC 8586): sent to itself, it would ask itself for ever.
    local is_cdn = ("," .. (r.headers_in["CDN-Loop"] or ""):lower() .. ","):find("[ ,]coral[ ,;]")
    -- Whom the CDN has sent back is served here.
    local is_sent_back = ("&" .. (r.args or "")):find("&coral-no-serve$")
    if is_cdn or is_sent_back or not (r.method == "GET" or r.method == "HEAD") then
        return apache2.DECLINED
    end
    -- When the last request would have come at an even pace, in microseconds. Two at the same time may count as one.
    local now, interval = r:clock(), 1000000 / RATE
    local before = r:ivm_get("coral")
    local even = math.max(tonumber(before or 0), now) + interval
    if even - now <= BURST * interval then
        r:ivm_set("coral", even)
        return apache2.DECLINED
    end
    r.headers_out["Location"] = "http://" .. r.hostname .. SUFFIX .. r.unparsed_uri
    r.err_headers_out["Cache-Control"] = "no-store"
    return 302
end
