# One image for hub and worker:  docker run answerback hub <folder>,  docker run answerback worker <folder>

FROM node:22.20-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN npm run build && npm prune --omit=dev --no-audit --no-fund

FROM node:22.20-slim
ENV NODE_ENV=production
WORKDIR /app
# Owned by root: the hub, running as `node`, writes nothing here.
COPY --from=build /app ./
USER node
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.HUB_HTTP_PORT || 8080}/health/ready`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# The young generation holds what is under way: with the 16 MiB of Node's own choice, a busy worker copies it twice.
ENTRYPOINT ["node", "--enable-source-maps", "--max-semi-space-size=32", "dist/cli/answerback.js"]
CMD ["hub", "examples/loan-broker"]
